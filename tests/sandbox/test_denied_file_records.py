"""The supervisor's side of denied files, without a cage: bounds, and a host that hangs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from nono_trio.core.log.file_events import MORE_FILES, denied_request, unseen_count
from nono_trio.core.policy.judging import Judging
from nono_trio.errors import AuditBusy
from nono_trio.sandbox import denied_files
from nono_trio.sandbox.attribution import file_system
from nono_trio.sandbox.denied_files import DeniedFiles
from nono_trio.sandbox.launcher.linux import view_server
from nono_trio.sandbox.launcher.linux.view_reports import ACKNOWLEDGED, NO_PATH, TOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nono_trio.core.log.events import Payload


class Log:
    def __init__(self) -> None:
        self.payloads: list[Payload] = []

    async def record_payload(self, payload: Payload) -> int:
        await trio.lowlevel.checkpoint()
        self.payloads.append(payload)
        return len(self.payloads)

    @property
    def paths(self) -> list[tuple[str, str]]:
        found = [denied_request(payload) for payload in self.payloads]
        return [(one.path, one.access) for one in found if one is not None]

    @property
    def lost(self) -> int:
        return sum(map(unseen_count, self.payloads))  # type: ignore[arg-type]


class Server:
    """The other end of the socket: tells, and waits for what is acknowledged."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = Log()
        self.untold = (0, 0)
        self.files = DeniedFiles(theirs, self.log, "0123456789abcdef", most=3)
        self._stream = trio.socket.from_stdlib_socket(self.sock)

    async def tell(self, number: int, path: bytes | Path, *, creates: bool = False) -> list[int]:
        name = path if isinstance(path, bytes) else os.fsencode(path)
        await self._stream.send(TOLD.pack(number, os.getpid(), creates, 0, 0) + name)
        data = await self._stream.recv(4096)
        return [one for (one,) in ACKNOWLEDGED.iter_unpack(data)]


def serve(test: Callable[[Server], object]) -> Server:
    server = Server()

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.files.serve)
                await test(server)  # type: ignore[misc]
                with contextlib.suppress(OSError):
                    server.sock.send(TOLD.pack(NO_PATH, 0, False, *server.untold))
                server.sock.close()
            server.log.payloads += server.files.rest()

    try:
        trio.run(main)
    finally:
        server.sock.close()
        server.files.sock.close()
    return server


def test_each_path_has_one_record_up_to_the_bound(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).touch()

    async def test(server: Server) -> None:
        assert await server.tell(1, tmp_path / "a") == [1]
        assert server.log.paths == [(str(tmp_path / "a"), "Read")]  # before the acknowledgement
        await server.tell(2, tmp_path / "a")
        await server.tell(3, tmp_path / "missing")
        await server.tell(4, tmp_path / "missing", creates=True)
        await server.tell(5, tmp_path / "b")
        await server.tell(6, tmp_path / "c")
        await server.tell(7, tmp_path / "d")

    log = serve(test).log
    assert [(os.path.basename(path), access) for path, access in log.paths] == [
        ("a", "Read"), ("missing", "Write"), ("b", "Read"), (MORE_FILES, "Read"),
    ]  # fmt: skip
    assert "2 more look-ups" in str(log.payloads[-1])


def test_a_name_that_is_no_text_is_recorded(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\n"
    os.close(os.open(name, os.O_CREAT, 0o600))

    async def test(server: Server) -> None:
        await server.tell(1, name)

    assert serve(test).log.paths == [(f"{tmp_path}/\\xff\n", "Read")]


def test_other_look_ups_hide_no_tripwire(tmp_path: Path) -> None:
    """Before: a program looked up as many other files as have a record, and then the tripwire."""
    for name in ("a", "b", "c", "d", "wire"):
        (tmp_path / name).touch()

    async def test(server: Server) -> None:
        server.files.judging = Judging(paths=(str(tmp_path / "wire"),))
        for number, name in enumerate(("a", "b", "c", "d", "wire"), 1):
            await server.tell(number, tmp_path / name)

    server = serve(test)
    recorded = [os.path.basename(path) for path, _ in server.log.paths]
    assert recorded == ["a", "b", "c", "wire", MORE_FILES]
    assert server.files.more == 1


def test_other_look_ups_hide_no_link_to_a_tripwire(tmp_path: Path) -> None:
    """Before: beyond the bound only the path itself was compared, not where a symlink leads."""
    for name in ("a", "b", "c", "d", "wire"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("wire")
    wire = os.path.realpath(tmp_path / "wire")

    async def test(server: Server) -> None:
        server.files.judging = Judging(paths=(wire,))
        for number, name in enumerate(("a", "b", "c", "d", "link"), 1):
            await server.tell(number, tmp_path / name)

    server = serve(test)
    recorded = [os.path.basename(path) for path, _ in server.log.paths]
    assert recorded == ["a", "b", "c", "link", MORE_FILES]


def test_the_room_for_tripwires_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denied_files, "MOST_TRIPPED", 2)
    names = [f"wire{number}" for number in range(8)]
    for name in names:
        (tmp_path / name).touch()

    async def test(server: Server) -> None:
        server.files.judging = Judging(paths=(f"{tmp_path}/wire*",))
        for number, name in enumerate(names, 1):
            await server.tell(number, tmp_path / name)

    server = serve(test)
    assert len(server.files.files) == 5
    assert server.files.more == 3


def test_a_host_that_hangs_delays_no_answer_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dead mount would: every thread is lost, and later look-ups do not wait at all."""
    ended = threading.Event()
    (tmp_path / "a").touch()
    monkeypatch.setattr(denied_files, "EXISTS_SECONDS", 0.05)
    monkeypatch.setattr(denied_files, "find_files", lambda _batch: ended.wait(60) and [])

    async def test(server: Server) -> None:
        try:
            for number in range(1, 6):
                assert await server.tell(number, tmp_path / "a") == [number]
        finally:
            ended.set()

    server = serve(test)
    assert server.files.unknown == 5
    assert server.log.paths == [(MORE_FILES, "Read")]


def test_a_path_that_hangs_is_given_up_before_the_program_has_its_answer() -> None:
    """Otherwise the server would wait for no later record, until the supervisor responds again."""
    assert denied_files.EXISTS_SECONDS < view_server.ANSWER_SECONDS


def hang(monkeypatch: pytest.MonkeyPatch, *names: str) -> threading.Event:
    """Make a look at the host hang if one of `names` is among what is looked at."""
    ended = threading.Event()
    find_files = denied_files.find_files

    def find(batch: Sequence[Any]) -> list[object]:
        if any(os.path.basename(one.path).decode() in names for one in batch):
            ended.wait(60)
        return [*find_files(batch)]

    monkeypatch.setattr(denied_files, "EXISTS_SECONDS", 0.05)
    monkeypatch.setattr(denied_files, "find_files", find)
    return ended


def test_paths_that_hang_hide_no_tripwire_and_no_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: two look-ups on a dead mount took every thread, and later ones had no record."""
    ended = hang(monkeypatch, "dead")

    async def test(server: Server) -> None:
        server.files.judging = Judging(paths=(str(tmp_path / "wire"),))
        try:
            for number in range(1, 5):
                await server.tell(number, tmp_path / "dead")
            await server.tell(5, tmp_path / "wire")  # which does not exist
            await server.tell(6, tmp_path / "new", creates=True)
        finally:
            ended.set()

    server = serve(test)
    recorded = [(os.path.basename(path), access) for path, access in server.log.paths]
    assert recorded == [("wire", "Read"), ("new", "Write"), (MORE_FILES, "Read")]
    assert (server.files.unknown, server.log.lost) == (4, 0)


ALL, POLICY, PATH = Judging("all"), Judging("policy"), Judging(paths=("/wire",))


@pytest.mark.parametrize(
    ("judging", "lost"), [(Judging(), 0), (PATH, 0), (POLICY, 0), (ALL, 1)], ids=str
)
def test_what_could_not_be_checked_is_lost_where_it_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judging: Judging, lost: int
) -> None:
    ended = hang(monkeypatch, "dead")

    async def test(server: Server) -> None:
        server.files.judging = judging
        try:
            await server.tell(1, tmp_path / "dead")
        finally:
            ended.set()

    assert serve(test).log.lost == lost


@pytest.mark.parametrize(
    ("judging", "lost"), [(Judging(), 0), (PATH, 5), (POLICY, 2), (ALL, 5)], ids=str
)
def test_what_was_never_sent_is_lost_where_it_decides(judging: Judging, lost: int) -> None:
    async def test(server: Server) -> None:
        await trio.lowlevel.checkpoint()
        server.files.judging = judging
        server.untold = (5, 2)

    server = serve(test)
    assert server.log.lost == lost
    assert server.log.paths == [(MORE_FILES, "Read")]


@pytest.mark.parametrize(
    ("judging", "lost"), [(Judging(), 0), (PATH, 1), (POLICY, 1), (ALL, 1)], ids=str
)
def test_a_server_that_is_killed_has_not_told_all(judging: Judging, lost: int) -> None:
    async def test(server: Server) -> None:
        await trio.lowlevel.checkpoint()
        server.files.judging = judging
        server.sock.close()

    assert serve(test).log.lost == lost


def test_a_log_that_is_too_slow_at_the_end_loses_no_count(tmp_path: Path) -> None:
    """Before: recording ended after a second, and what had not been read was in no count."""
    names = [tmp_path / name for name in ("a", "wire", "b", "c")]
    for name in names:
        name.touch()

    class Stuck(Log):
        async def record_payload(self, payload: Payload) -> int:
            await trio.sleep_forever()
            raise AssertionError

    server = Server()
    server.files.recorder = Stuck()
    server.files.judging = Judging(paths=(str(tmp_path / "wire"),))

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.files.serve)
                server.sock.send(TOLD.pack(1, 1, False, 0, 0) + os.fsencode(names[0]))
                with trio.move_on_after(0.2):
                    await trio.sleep_forever()
                for number, name in enumerate(names[1:], 2):
                    server.sock.send(TOLD.pack(number, 1, False, 0, 0) + os.fsencode(name))
                server.sock.send(TOLD.pack(NO_PATH, 0, False, 7, 0))
                nursery.cancel_scope.cancel()

    trio.run(main)
    server.log.payloads += server.files.rest()
    server.sock.close()
    server.files.sock.close()
    assert (server.files.unknown, server.files.untold) == (4, 7)
    assert server.log.lost == 8  # the tripwire, and those whose names are not known


@pytest.mark.parametrize("name", ["wire", "link"])
def test_a_busy_log_loses_no_tripwire_silently(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("wire")
    wire = os.path.realpath(tmp_path / "wire")

    class Busy(Log):
        async def record_payload(self, payload: Payload) -> int:
            await trio.lowlevel.checkpoint()
            raise AuditBusy("busy")

    async def test(server: Server) -> None:
        server.files.recorder = Busy()
        server.files.judging = Judging(paths=(wire,))
        await server.tell(1, tmp_path / name)

    server = serve(test)
    assert (server.log.lost, server.log.paths) == (1, [(MORE_FILES, "Read")])


def test_a_link_is_not_followed_into_a_mount_that_may_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: the thread waited in the kernel for a file system whose server did not respond, and
    the supervisor could not end."""
    place = os.path.realpath(tmp_path)
    for name in ("home", "a nas", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "a nas/inner").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "home/hop").symlink_to("../a nas/./inner//file")
    (tmp_path / "home/hanging").symlink_to(f"{place}/home/hop")
    (tmp_path / "home/plain").symlink_to("../elsewhere/../elsewhere")
    (tmp_path / "home/loop").symlink_to("loop")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 1 0:1 / / rw - ext4 /dev/a rw\n"
        f"2 1 0:4095 / {place}/a\\040nas rw - fuse.sshfs nas rw\n"
        f"3 1 0:4094 / {place}/elsewhere rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(file_system, "MOUNTS", str(mounts))

    async def look_up(server: Server) -> None:
        for number, name in enumerate(("hanging", "plain", "loop"), 1):
            assert await server.tell(number, tmp_path / "home" / name) == [number]

    found = [file.real for file in serve(look_up).files.files.values()]
    assert found == [f"{place}/a nas/inner/file", f"{place}/elsewhere", f"{place}/home/loop"]
    inside = os.fsencode(f"{place}/a nas/inner")  # its own mount has answered
    assert file_system.followed(inside) == os.fsencode(f"{place}/elsewhere")
