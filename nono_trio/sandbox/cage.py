"""The supervisor's side of the cage: "go", signals, and the child's end.

Rules: waits have no timeouts of their own (callers put scopes around them); leaving `Cage` always
ends the whole tree, and waits until it has ended. The launcher ends the tree: it kills PID 1 of the
cage, which ends a PID namespace; without one it kills all its descendants. If another program
killed the launcher, PID 1 ends the tree, so its end is waited for too. On macOS the end of the
control socket makes the launcher do so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, Self, cast

import msgspec
import trio

from nono_trio.errors import CageFailed, CommandNotFound
from nono_trio.posix.paths import ON_MACOS
from nono_trio.posix.process_handle import ProcessHandle
from nono_trio.sandbox.launcher import protocol
from nono_trio.sandbox.launcher.linux.keeper import END_NOW
from nono_trio.sandbox.spawn import launch_error

if TYPE_CHECKING:
    from types import TracebackType

    from nono_trio.sandbox.spawn import Launched

# A killed tree ends within milliseconds, one of many thousand processes within seconds. A process
# in uninterruptible sleep (a dead network file system) must not delay the seal of the log. Without
# a PID namespace the launcher itself leaves such a process behind.
REAP_SECONDS = 5.0
REAP_TREE_SECONDS = 30.0


class ChildEnded(msgspec.Struct, frozen=True):
    """The child's own end: its exit code, or the signal that killed it."""

    code: int | None
    signal: int | None

    @property
    def exit_code(self) -> int:
        """The exit code of a shell: n, or 128 + signal."""
        if self.code is not None:
            return self.code
        return 128 + (self.signal or 0)


class ChildStopped(msgspec.Struct, frozen=True):
    """The child's group was stopped (Ctrl-Z, SIGSTOP)."""

    signal: int


ChildEvent = ChildEnded | ChildStopped


class Cage:
    """A launched cage; use as `async with Cage(launched) as cage`."""

    def __init__(self, launched: Launched) -> None:
        self._launched = launched
        self._control = launched.control
        self._control.setblocking(False)
        self._decoder = protocol.Decoder()
        self._launcher = ProcessHandle(launched.pid)
        self._connecting: dict[int, _Connecting] = {}
        self._next_identity = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        for seconds in (REAP_SECONDS if self._launched.isolated else REAP_TREE_SECONDS, 2.0):
            with trio.move_on_after(seconds, shield=True) as reaping:
                await self._launcher.ended()
                self._reap()
                await self._init_ended()
            if not reaping.cancelled_caught:
                break
            self._signal_launcher(signal.SIGKILL)
        self._control.close()
        self._launcher.close()

    def _reap(self) -> None:
        if not self._launched.reaped:
            os.waitpid(self._launched.pid, 0)  # returns at once
            self._launched.reaped = True

    async def _init_ended(self) -> None:
        """Wait until PID 1 has ended, and with it the tree; it has, unless the launcher was killed.

        A PID namespace is empty by then: the kernel ends its first process last.
        """
        if self._launched.init is not None:
            await trio.lowlevel.wait_readable(self._launched.init)

    def kill(self) -> None:
        """Kill the whole tree now; harmless after its end. Safe to call from any thread."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        if not ON_MACOS:
            self._signal_launcher(END_NOW)

    def _signal_launcher(self, number: int) -> None:
        # Through the handle: the pid may have been reused by then.
        with contextlib.suppress(ProcessLookupError):
            self._launcher.signal(number)

    async def go(self, command: str) -> None:
        """Let the child exec; raises CommandNotFound or CageFailed if that fails."""
        await self._send({"go": True})
        message, _ = await self._receive()
        failure = message.get("exec_failed")
        if isinstance(failure, dict):
            raise _exec_error(command, int(failure["errno"]))
        if "started" not in message:
            raise launch_error(message)

    async def next_event(self) -> ChildEvent:
        """Wait for the next event of the child; ChildEnded is the last.

        If PID 1 of the cage was killed, the event is an end by SIGKILL.
        """
        while True:
            try:
                message, descriptors = await self._receive()
            except CageFailed:
                return ChildEnded(None, signal.SIGKILL)
            if isinstance(identity := message.get("connecting"), int):
                self._connected(identity, int(str(message["errno"])), descriptors)
            if isinstance(number := message.get("stopped"), int):
                return ChildStopped(number)
            if isinstance(number := message.get("killed"), int):
                return ChildEnded(None, number)
            if isinstance(code := message.get("exited"), int):
                return ChildEnded(code, None)

    async def connect(self, port: int) -> socket.socket:
        """Connect to `port` on the child's own loopback; returns a non-blocking stdlib socket.

        Tries IPv4, then IPv6 if the connection is refused. A task must await `next_event`
        meanwhile. Raises OSError without a listener. If cancelled, the socket is closed when it
        arrives.
        """
        try:
            return await self._connect("127.0.0.1", port)
        except ConnectionRefusedError as refused:
            try:
                return await self._connect("::1", port)
            except OSError:
                raise refused from None

    async def _connect(self, address: str, port: int) -> socket.socket:
        identity, self._next_identity = self._next_identity, self._next_identity + 1
        connecting = self._connecting[identity] = _Connecting()
        try:
            await self._send({"connect": port, "address": address, "id": identity})
            return await connecting.connected()
        except BaseException:
            connecting.close()
            raise
        finally:
            del self._connecting[identity]

    def _connected(self, identity: int, number: int, descriptors: list[int]) -> None:
        sock = socket.socket(fileno=descriptors[0])
        connecting = self._connecting.get(identity)
        if connecting is None:  # `connect` was cancelled
            sock.close()
        else:
            connecting.arrive(sock, number)

    async def signal(self, number: int) -> None:
        """Send a signal to the child's process group; ignores that the cage has ended."""
        await self._send({"signal": int(number)})

    async def signal_continue(self) -> None:
        """Continue a stopped child."""
        await self.signal(signal.SIGCONT)

    async def foreground(self) -> None:
        """Make the child's process group the terminal's foreground group again."""
        await self._send({"foreground": True})

    async def _send(self, message: dict[str, object]) -> None:
        data = protocol.encode(message)
        while data:
            try:
                data = data[self._control.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._control)
            except (BrokenPipeError, ConnectionResetError):
                return

    async def _receive(self) -> tuple[dict[str, object], list[int]]:
        while (found := self._decoder.next()) is None:
            await trio.lowlevel.wait_readable(self._control)
            if not protocol.read_once(self._control, self._decoder):
                raise CageFailed("the cage's launcher ended before it said why")
        return found


class _Connecting:
    """A pending connection into the cage: first its socket arrives, then its result."""

    def __init__(self) -> None:
        self._arrived = trio.Event()
        self._sock: socket.socket | None = None
        self._number = 0

    def arrive(self, sock: socket.socket, number: int) -> None:
        self._sock = sock
        self._number = number
        self._arrived.set()

    async def connected(self) -> socket.socket:
        await self._arrived.wait()
        sock = cast("socket.socket", self._sock)
        number = self._number
        if number in (0, errno.EINPROGRESS):
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        return sock

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


def _exec_error(command: str, number: int) -> CageFailed | CommandNotFound:
    text = os.strerror(number)
    hint = "a script's interpreter must be inside the cage too: grant its directory with --read"
    if number == errno.ENOEXEC:
        hint = "it is no script and no program of this machine's kind: `file` says what it is"
    return CageFailed(f"{command} could not be executed in the cage: {text}", hint=hint)
