"""The view's server, with a socket in the place of /dev/fuse: its answers, bounds and waits."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import stat
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nono_trio.sandbox.launcher.linux import creating_calls as creating_calls_module
from nono_trio.sandbox.launcher.linux import fuse_messages as fuse
from nono_trio.sandbox.launcher.linux import view_reports, view_server
from nono_trio.sandbox.launcher.linux.creating_calls import creating_calls
from nono_trio.sandbox.launcher.linux.view_reports import ACKNOWLEDGED, NO_PATH, TOLD
from nono_trio.sandbox.launcher.linux.view_server import Home, ViewServer
from nono_trio.sandbox.launcher.linux.view_tree import (
    Place,
    TreeError,
    decode_tree,
    places_of,
    with_directories,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = stat.S_IFDIR | 0o755
PLACES = [
    Place("/", DIRECTORY, 0, 0),
    Place("/etc", DIRECTORY, 0, 0, "", True),
    Place("/home", DIRECTORY, 0, 0),
    Place("/home/me", DIRECTORY, 7, 8),
    Place("/home/me/project", DIRECTORY, 7, 8, "", True),
    Place("/link", stat.S_IFLNK | 0o777, 0, 0, "home/me"),
]
LISTING = struct.pack("=QQI", 0, 0, 4096)
HEADER = struct.Struct("=IIQQIIIHH")


class Kernel:
    """The kernel's side of a server that runs in a thread, and the supervisor's."""

    def __init__(self, home: Home | None = None) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        (self.device, device), (self.supervisor, told) = pairs
        self.launcher, control = socket.socketpair()
        device.setblocking(False)
        self.sockets = [self.device, self.supervisor, self.launcher, device, control, told]
        for sock in (self.device, self.supervisor):
            sock.settimeout(60)
        self.server = ViewServer(device.fileno(), control, told, PLACES, home=home)
        self.thread = threading.Thread(target=self.server.run)
        self.unique = 0

    def ask(self, operation: int, node: int, body: bytes = b"") -> int:
        self.unique += 1
        length = HEADER.size + len(body)
        header = HEADER.pack(length, operation, self.unique, node, 0, 0, os.getpid(), 0, 0)
        self.device.send(header + body)
        return self.unique

    def answer(self) -> tuple[int, int, bytes]:
        """Request, errno and body."""
        message = self.device.recv(1 << 16)
        length, error, unique = struct.unpack_from("=IiQ", message)
        assert length == len(message)
        return unique, -error, message[16:]

    def look_up(self, node: int, name: bytes) -> int:
        return self.ask(fuse.LOOKUP, node, name + b"\0")

    def told(self) -> tuple[int, bytes]:
        message = self.supervisor.recv(1 << 16)
        return TOLD.unpack_from(message)[0], message[TOLD.size :]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    yield from running(Kernel())


def running(kernel: Kernel) -> Iterator[Kernel]:
    kernel.thread.start()
    try:
        yield kernel
    finally:
        kernel.launcher.close()
        kernel.thread.join(60)
        for sock in kernel.sockets:
            sock.close()
    assert not kernel.thread.is_alive()


def test_the_tree_is_shown(kernel: Kernel) -> None:
    kernel.look_up(fuse.ROOT, b"home")
    _, error, body = kernel.answer()
    (home,) = struct.unpack_from("=Q", body)
    assert error == 0
    kernel.ask(fuse.GETATTR, home + 1)
    attributes = kernel.answer()[2]
    assert struct.unpack_from("=IIII", attributes, 16 + 60)[:4] == (DIRECTORY, 2, 7, 8)
    kernel.ask(fuse.READLINK, 6)
    assert kernel.answer()[2] == b"home/me"
    kernel.ask(fuse.READDIR, fuse.ROOT, struct.pack("=QQI", 0, 0, 4096))
    listed = kernel.answer()[2]
    assert all(name in listed for name in (b"etc", b"home", b"link"))
    kernel.ask(fuse.READDIR, fuse.ROOT, struct.pack("=QQI", 0, 5, 4096))
    assert kernel.answer()[2] == b""


@pytest.mark.parametrize("operation", [fuse.MKDIR, fuse.CREATE, fuse.SETATTR, fuse.UNLINK])
def test_nothing_is_changed(kernel: Kernel, operation: int) -> None:
    kernel.ask(operation, fuse.ROOT, b"\0" * 64)
    assert kernel.answer()[1] == errno.EACCES


def test_a_missing_name_waits_for_its_record(kernel: Kernel) -> None:
    asked = kernel.look_up(4, b".ssh")
    number, path = kernel.told()
    assert path == b"/home/me/.ssh"
    kernel.device.setblocking(False)
    with pytest.raises(BlockingIOError):
        kernel.device.recv(1)
    kernel.device.settimeout(60)
    kernel.supervisor.send(ACKNOWLEDGED.pack(number))
    assert kernel.answer() == (asked, errno.ENOENT, b"")
    kernel.look_up(4, b".ssh")  # known by now
    assert kernel.answer()[1] == errno.ENOENT


def test_without_a_word_it_answers_once_late_then_at_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_server, "ANSWER_SECONDS", 0.05)
    kernel.look_up(4, b"a")
    assert kernel.answer()[1] == errno.ENOENT
    monkeypatch.setattr(view_server, "ANSWER_SECONDS", 600.0)
    kernel.look_up(4, b"b")  # would wait for ten minutes
    assert kernel.answer()[1] == errno.ENOENT
    numbers = [kernel.told()[0] for _ in range(2)]
    kernel.supervisor.send(ACKNOWLEDGED.pack(numbers[1]))  # it is back: the next one waits again
    monkeypatch.setattr(view_server, "ANSWER_SECONDS", 60.0)
    asked = kernel.look_up(fuse.ROOT, b"c")
    number, _ = kernel.told()
    kernel.supervisor.send(ACKNOWLEDGED.pack(number))
    assert kernel.answer() == (asked, errno.ENOENT, b"")


def test_the_end_of_the_supervisor_answers_everything(kernel: Kernel) -> None:
    asked = {kernel.look_up(4, b"%d" % number) for number in range(20)}
    for _ in asked:
        kernel.told()
    kernel.supervisor.close()
    assert {kernel.answer()[:2] for _ in asked} == {(one, errno.ENOENT) for one in asked}


def test_what_the_home_has_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        for kernel in running(Kernel(Home("/home/me", descriptor))):
            kernel.look_up(4, b".cache")
            assert kernel.answer()[1] == errno.ENOENT  # without a word to the supervisor
            kernel.look_up(4, b".ssh")
            assert kernel.told()[1] == b"/home/me/.ssh"
    finally:
        os.close(descriptor)


def test_a_create_in_the_home_hides_no_look_up_of_a_tripwire(tmp_path: Path) -> None:
    """Before: `open` with O_CREAT read what is below a tripwire, and nobody saw it; so did a
    program that hides its calls."""
    descriptor = os.open(tmp_path, os.O_PATH)
    opening = next(number for number, place in creating_calls().items() if place == 0)
    found: list[bytes | Exception] = []
    try:
        for kernel in running(Kernel(Home("/home/me", descriptor))):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(creating_calls_module, "open", lambda *_, **__: _read(found), False)
                for found[:], has_tripwires, name in (
                    ([b"%d 0x0" % opening], False, b"allowed"),
                    ([b"%d 0x0" % opening], True, b".ssh"),
                    ([PermissionError()], False, b".hidden"),
                ):
                    kernel.server.has_tripwires = has_tripwires
                    kernel.look_up(4, name)
                    if name == b"allowed":
                        assert kernel.answer()[1] == errno.ENOENT
                        continue
                    told = kernel.supervisor.recv(1 << 16)
                    number, _, creates, *_ = TOLD.unpack_from(told)
                    assert (told[TOLD.size :], creates) == (b"/home/me/" + name, False)
                    kernel.supervisor.send(ACKNOWLEDGED.pack(number))
                    assert kernel.answer()[1] == errno.ENOENT
    finally:
        os.close(descriptor)


def _read(found: list[bytes | Exception]) -> io.BytesIO:
    if isinstance(found[0], Exception):
        raise found[0]
    return io.BytesIO(found[0])


def test_memory_is_flat_over_many_names(kernel: Kernel) -> None:
    """More names than it may keep, none of which the supervisor acknowledges."""
    kernel.server.is_answered = False
    kernel.supervisor.setblocking(False)
    kept = []
    for number in range(30_000):
        kernel.look_up(4, b"name-%d" % number)
        assert kernel.answer()[1] == errno.ENOENT
        with contextlib.suppress(BlockingIOError):
            kernel.supervisor.recv(1 << 16)
        if number in (20_000, 29_999):
            kept.append(kernel.server.kept)
    assert kept == [(view_server.MOST_NAMES, view_server.MOST_LATE, 0)] * 2


def test_a_flood_while_nobody_listens_is_told_later(kernel: Kernel) -> None:
    """Before: what did not fit in the socket was only counted."""
    kernel.server.is_answered = False
    names = 5000  # of which the socket takes a few hundred
    for number in range(names):
        kernel.look_up(4, b"name-%d" % number)
        assert kernel.answer()[1] == errno.ENOENT
    told = [kernel.supervisor.recv(1 << 16) for _ in range(names)]
    assert {message[TOLD.size :] for message in told} == {
        b"/home/me/name-%d" % number for number in range(names)
    }
    assert TOLD.unpack_from(told[-1])[3] == 0


def test_what_is_kept_is_bounded_and_the_end_tells_the_rest(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_reports, "MOST_KEPT", 1000)
    kernel.server.is_answered = False
    for number in range(3000):
        kernel.look_up(4, b"name-%d" % number)
        assert kernel.answer()[1] == errno.ENOENT
    kernel.launcher.close()
    told = []
    while not told or TOLD.unpack_from(told[-1])[0] != NO_PATH:
        told.append(kernel.supervisor.recv(1 << 16))
    assert len(told) - 1 + TOLD.unpack_from(told[-1])[3] == 3000


def test_a_directory_of_a_tripwire_tells_of_its_listing_once(kernel: Kernel) -> None:
    kernel.server.listed = frozenset({"/home/me"})
    kernel.ask(fuse.OPENDIR, 4)  # which an overlay does, too
    assert kernel.answer()[1] == 0
    asked = kernel.ask(fuse.READDIR, 4, LISTING)
    number, path = kernel.told()
    assert path == b"/home/me"
    kernel.supervisor.send(ACKNOWLEDGED.pack(number))
    assert kernel.answer()[:2] == (asked, 0)
    kernel.ask(fuse.READDIR, 4, LISTING)
    assert kernel.answer()[1] == 0


def test_directories_are_added_where_fuse_is_asked() -> None:
    wanted = ["/home/me/.ssh", "/srv/a/b", "/etc/x", "/link/x", "/home/me/.ssh/deep", ""]
    places = with_directories(PLACES, wanted)
    assert places[: len(PLACES)] == PLACES
    assert [(place.path, place.uid) for place in places[len(PLACES) :]] == [
        ("/home/me/.ssh", 7), ("/srv", 0), ("/srv/a", 0), ("/srv/a/b", 0),
        ("/home/me/.ssh/deep", 7),
    ]  # fmt: skip


def test_a_tree_is_read_from_the_plain_view(tmp_path: Path) -> None:
    (tmp_path / "home" / "me").mkdir(parents=True)
    (tmp_path / "home" / "link").symlink_to("me")
    found = {place.path: place for place in places_of(str(tmp_path))}
    assert [*found] == ["/", "/home", "/home/link", "/home/me"]
    assert found["/home/link"].target == "me"
    assert not any(place.is_mount for place in found.values())
    assert decode_tree([list(place) for place in found.values()]) == [*found.values()]
    mounts = [place.path for place in places_of("/dev") if place.is_mount]
    assert "/pts" in mounts


@pytest.mark.parametrize("message", [None, {}, [1], [["/", "0", 0, 0, "", False]], [["/"]]])
def test_what_is_no_tree_is_refused(message: object) -> None:
    with pytest.raises(TreeError):
        decode_tree(message)
