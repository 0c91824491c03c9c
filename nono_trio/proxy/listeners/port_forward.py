"""Ports let through by name: `--open-port` out of the cage, `--listen-port` into it.

Not the fast path of the proxy and no policy: the user named the port, both ends are loopback. What
holds all the same: the decision is in the log before a byte moves, half-closes are passed on, a
flow line says what moved, one bad connection ends nobody else's.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET

from nono_trio.core.log.events import Flow, NetworkEvent
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.errors import AuditBusy, SessionSealed
from nono_trio.posix.clock import unix_ms

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import ClosedBy, Decision
    from nono_trio.core.policy.reasons import Value

LOOPBACK: Final = "127.0.0.1"
LOOPBACK_IPV6: Final = "::1"  # where a service listens that was told `localhost`, as Node's are
# One read; large enough that a database's result sets are not cut into thousands of pieces.
CHUNK: Final = 64 * 1024
# As for the proxy's own connections: far more than a program keeps open to one service.
MAX_CONNECTIONS: Final = 256
# A loopback connect answers at once, unless the listener's backlog is full.
CONNECT_SECONDS: Final = 5.0
_ACCEPT_BACKOFF: Final = 0.1  # seconds, while the process has no descriptors left
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class PortRelay:
    """Accepts on one listener and relays each connection to a fresh one from `connect`.

    `is_commands`: who connects is the caged command, so what it can't have is a denial of its.
    Anybody of the machine may be at a port of the host's, and many a program asks there until it is
    answered: that is no attempt of the command's, so it is counted only (`unserved`).
    """

    def __init__(
        self,
        port: int,
        flag: str,
        connect: Callable[[], Awaitable[trio.SocketStream]],
        recorder: RecordsDecisions,
        *,
        is_commands: bool = True,
    ) -> None:
        self.unserved = 0
        self._is_commands = is_commands
        self._port = port
        self._flag = flag
        self._connect = connect
        self._recorder = recorder
        self._room = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve(self, listener: socket.socket, handlers: trio.Nursery) -> None:
        """Accept until cancelled, then close the listener; `handlers` gets the connections."""
        with listener:
            listener.setblocking(False)
            accepting = trio.socket.from_stdlib_socket(listener)
            while True:
                try:
                    sock, _ = await accepting.accept()
                except OSError as error:
                    await trio.sleep(_ACCEPT_BACKOFF if error.errno in _SHORT else 0)
                    continue
                handlers.start_soon(self._handle, trio.SocketStream(sock))

    async def _handle(self, near: trio.SocketStream) -> None:
        async with near:
            # A log that can't keep up, or has ended, costs this connection and no other.
            with suppress(AuditBusy, SessionSealed):
                await self._serve_one(near)

    async def _serve_one(self, near: trio.SocketStream) -> None:
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:  # not kept waiting: that queue would have no bound
            await self._refuse(DenialCode.RELAY_FULL, count=MAX_CONNECTIONS)
            return
        try:
            flow = _Flow(await self._recorder.record(self._event("allow", self._flag)))
            try:
                await self._relay(near, flow)
            finally:
                self._recorder.record_flow(flow.line(self._port))
        finally:
            self._room.release()

    async def _relay(self, near: trio.SocketStream, flow: _Flow) -> None:
        try:
            with trio.fail_after(CONNECT_SECONDS):
                far = await self._connect()
        except (OSError, trio.TooSlowError) as error:
            flow.closed_by = "error"
            await self._refuse(DenialCode.RELAY_UNANSWERED, detail=_words(error))
            return
        flow.reached(far)
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(flow.pump, near, far, "up")
            nursery.start_soon(flow.pump, far, near, "down")

    async def _refuse(self, code: DenialCode, **values: Value) -> None:
        if self._is_commands:
            reason = format_reason(code, port=self._port, **values)
            await self._recorder.record(self._event("deny", reason))
        else:
            self.unserved += 1

    def _event(self, decision: Decision, reason: str) -> NetworkEvent:
        return NetworkEvent(
            timestamp_unix_ms=unix_ms(),
            mode="connect",
            decision=decision,
            denial_category="upstream_connect_failed" if decision == "deny" else UNSET,
            target=LOOPBACK,
            port=self._port,
            reason=reason,
        )


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "timed out"


class _Flow:
    """What moves through one connection, counted so that a cut one can still be told."""

    def __init__(self, sequence: int) -> None:
        self.closed_by: ClosedBy = "shutdown"
        self._address = LOOPBACK
        self._sequence = sequence
        self._opened = unix_ms()
        self._began = trio.current_time()
        self._moved = {"up": 0, "down": 0}

    def reached(self, far: trio.SocketStream) -> None:
        """Note the address of the service; one that has gone again leaves the usual one."""
        with suppress(OSError):
            self._address = str(far.socket.getpeername()[0])

    async def pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, direction: str
    ) -> None:
        """Move bytes until `source` ends, then end `sink`'s side; a broken end ends both."""
        ended: ClosedBy = "client" if direction == "up" else "upstream"
        try:
            while chunk := await source.receive_some(CHUNK):
                await sink.send_all(chunk)
                self._moved[direction] += len(chunk)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The other pump would wait for an end that has gone: closing wakes it.
            await trio.aclose_forcefully(source)
            await trio.aclose_forcefully(sink)
        if self.closed_by == "shutdown":
            self.closed_by = ended

    def line(self, port: int) -> Flow:
        """Return the flow line."""
        return Flow(
            sequence=self._sequence,
            target=LOOPBACK,
            port=port,
            address=self._address,
            opened_unix_ms=self._opened,
            duration_ms=round((trio.current_time() - self._began) * 1000),
            bytes_up=self._moved["up"],
            bytes_down=self._moved["down"],
            closed_by=self.closed_by,
        )


async def dial_host(port: int) -> trio.SocketStream:
    """Connect to the host's own loopback, IPv6 where nothing listens on IPv4; raises OSError."""
    try:
        return await _dial(trio.socket.AF_INET, LOOPBACK, port)
    except ConnectionRefusedError as refused:
        try:
            return await _dial(trio.socket.AF_INET6, LOOPBACK_IPV6, port)
        except OSError:
            raise refused from None


async def _dial(family: int, address: str, port: int) -> trio.SocketStream:
    sock = trio.socket.socket(family)
    try:
        await sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
