"""The supervisor's side of denied files, without a cage: bounds, and a host that hangs."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import trio

from nono_trio.core.log.file_events import MORE_FILES, denied_request
from nono_trio.sandbox import denied_files
from nono_trio.sandbox.denied_files import DeniedFiles
from nono_trio.sandbox.launcher.linux.view_server import ACKNOWLEDGED, TOLD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

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


class Server:
    """The other end of the socket: tells, and waits for what is acknowledged."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = Log()
        self.files = DeniedFiles(theirs, self.log, "0123456789abcdef", most=3)
        self._stream = trio.socket.from_stdlib_socket(self.sock)

    async def tell(self, number: int, path: bytes | Path, *, creates: bool = False) -> list[int]:
        name = path if isinstance(path, bytes) else os.fsencode(path)
        await self._stream.send(TOLD.pack(number, os.getpid(), creates, 0) + name)
        data = await self._stream.recv(4096)
        return [one for (one,) in ACKNOWLEDGED.iter_unpack(data)]


def serve(test: Callable[[Server], object]) -> Server:
    server = Server()

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.files.serve)
                await test(server)  # type: ignore[misc]
                server.sock.close()
            await server.files.record_untold()

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
        server.files.is_tripwire = lambda path: path.endswith("/wire")
        for number, name in enumerate(("a", "b", "c", "d", "wire"), 1):
            await server.tell(number, tmp_path / name)

    server = serve(test)
    recorded = [os.path.basename(path) for path, _ in server.log.paths]
    assert recorded == ["a", "b", "c", "wire", MORE_FILES]
    assert server.files.more == 1


def test_the_room_for_tripwires_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denied_files, "MOST_TRIPPED", 2)
    names = [f"wire{number}" for number in range(8)]
    for name in names:
        (tmp_path / name).touch()

    async def test(server: Server) -> None:
        server.files.is_tripwire = lambda _path: True
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
