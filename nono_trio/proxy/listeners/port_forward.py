"""Ports that the user named: `--open-port` out of the cage, `--listen-port` into it.

No policy is asked, because the user has named the port and both ends are loopback. The rules:
- The decision is in the log before a byte moves.
- Half-closes are passed on, and a line of the flow log says what moved.
- A bad connection ends no other one.
"""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.errors import AuditBusy, SessionSealed
from nono_trio.posix.clock import unix_ms
from nono_trio.proxy.access.decision import Decision, FlowStart, Recorded, Refusal
from nono_trio.proxy.listeners.origin import origin_of
from nono_trio.proxy.transport.epoll import Readiness
from nono_trio.proxy.transport.relay import Relay, RelayBuffer
from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.steps import start_task
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.core.policy.reasons import Value

LOOPBACK: Final = "127.0.0.1"
LOOPBACK_IPV6: Final = "::1"  # a service that listens on `localhost` may be there only
# As for the proxy's own connections: far more than a program keeps open to one service.
MAX_CONNECTIONS: Final = 256
# A loopback connect answers at once, unless the listener's backlog is full.
CONNECT_SECONDS: Final = 5.0
_ACCEPT_BACKOFF: Final = 0.1  # seconds, while the process has no descriptors left
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class PortRelay:
    """Accepts on the listeners of one port and relays each connection to a new one from `connect`,
    which returns a non-blocking socket.

    `is_commands`: the caged command connects, so a connection that can't be served is a denial of
    the command's. Any program of the machine may connect to a port of the host's, and many ask
    there until they are answered: their connections are only counted, in `unserved`. At most `most`
    connections are relayed at once.
    """

    def __init__(
        self,
        port: int,
        flag: str,
        connect: Callable[[], Awaitable[socket.socket]],
        recorder: RecordsDecisions,
        *,
        is_commands: bool = True,
        most: int = MAX_CONNECTIONS,
    ) -> None:
        self.unserved = 0
        self._is_commands = is_commands
        self._port = port
        self._flag = flag
        self._connect = connect
        self._recorder = recorder
        self._decision = Decision("connect", LOOPBACK, port)
        self._most = most
        self._relayed = 0
        self._buffer = RelayBuffer()
        self._readiness = Readiness()
        self._users = 0
        self._waking: trio.CancelScope | None = None

    async def serve(self, listener: socket.socket, handlers: trio.Nursery) -> None:
        """Accept until cancelled, then close the listener; `handlers` gets the connections."""
        with listener, self._wakes(handlers):
            listener.setblocking(False)
            accepting = trio.socket.from_stdlib_socket(listener)
            while True:
                try:
                    accepted, _ = await accepting.accept()
                except OSError as error:
                    await trio.sleep(_ACCEPT_BACKOFF if error.errno in _SHORT else 0)
                    continue
                sock = socket.socket(fileno=accepted.detach())
                start_task(self._handle(sock, handlers), handlers)

    @contextmanager
    def _wakes(self, handlers: trio.Nursery) -> Generator[None]:
        """Wake the tasks whose sockets are ready, as long as the body of any caller runs."""
        self._users += 1
        if self._waking is None:
            self._waking = trio.CancelScope()
            handlers.start_soon(self._wake_until, self._waking)
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._waking.cancel(reason="no connection is left")
                self._waking = None

    async def _wake_until(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._readiness.dispatch()

    async def _handle(self, sock: socket.socket, handlers: trio.Nursery) -> None:
        near = TcpTransport(_prepared(sock), "client", Waker(), self._readiness)
        try:
            # A log that can't keep up, or has ended, costs this connection and no other; so does
            # a system that can't watch another socket.
            with self._wakes(handlers), suppress(AuditBusy, SessionSealed, OSError):
                await self._serve_one(near)
        finally:
            near.close()

    async def _serve_one(self, near: TcpTransport) -> None:
        origin = origin_of(near.sock) if self._is_commands else None
        if self._relayed >= self._most:  # a queue of waiting connections would have no bound
            await self._refuse(origin, DenialCode.RELAY_FULL, count=self._most)
            return
        self._relayed += 1
        try:
            event = replace(self._decision.event(unix_ms()), reason=self._flag)
            sequence = await self._recorder.record(event, origin)
            flow = FlowStart(Recorded(self._decision, sequence), LOOPBACK, unix_ms())
            sock = await self._dial(flow, origin)
            if sock is not None:
                await self._relay(near, sock, flow)
        finally:
            self._relayed -= 1

    async def _dial(self, flow: FlowStart, origin: RecordOrigin | None) -> socket.socket | None:
        """Connect to the service. If nothing answers, refuse and return None. Without a connection
        the flow is logged, also if cancelled."""
        sock: socket.socket | None = None
        closed_by: ClosedBy = "shutdown"
        try:
            with trio.fail_after(CONNECT_SECONDS):
                sock = await self._connect()
        except (OSError, trio.TooSlowError) as error:
            closed_by = "error"
            await self._refuse(origin, DenialCode.RELAY_UNANSWERED, detail=_words(error))
        finally:
            if sock is None:
                self._recorder.record_flow(flow.end(0, 0, closed_by))
        return sock

    async def _relay(self, near: TcpTransport, sock: socket.socket, flow: FlowStart) -> None:
        """Relay to an end, then close the service's socket and log the flow, also if cancelled."""
        far = TcpTransport(_prepared(sock), "upstream", near.waker, self._readiness)
        relay = Relay(near, far, self._buffer)
        try:
            with suppress(OSError):  # the service may be gone again; most are at LOOPBACK
                flow.address = str(sock.getpeername()[0])
            near.register()
            far.register()
            await relay.run(near.waker.sleep_while)
        finally:
            relay.release()
            far.close()
            self._recorder.record_flow(flow.end(relay.up.moved, relay.down.moved, relay.closed_by))

    async def _refuse(self, origin: RecordOrigin | None, code: DenialCode, **values: Value) -> None:
        if self._is_commands:
            reason = format_reason(code, port=self._port, **values)
            refused = self._decision.refused(
                Refusal(502, reason, category="upstream_connect_failed")
            )
            await self._recorder.record(refused.event(unix_ms()), origin)
        else:
            self.unserved += 1


def _prepared(sock: socket.socket) -> socket.socket:
    """The same socket, which neither blocks nor waits for more bytes before it sends some."""
    sock.setblocking(False)
    with suppress(OSError):  # the peer may be gone again
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "timed out"


async def dial_host(port: int) -> socket.socket:
    """Connect to the host's own loopback, by IPv6 if nothing listens on IPv4. Returns a
    non-blocking socket; raises OSError."""
    try:
        return await _dial(socket.AF_INET, LOOPBACK, port)
    except ConnectionRefusedError as refused:
        try:
            return await _dial(socket.AF_INET6, LOOPBACK_IPV6, port)
        except OSError:
            raise refused from None


async def _dial(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    connecting = trio.socket.socket(family)
    try:
        await connecting.connect((address, port))
    except BaseException:
        connecting.close()
        raise
    return socket.socket(fileno=connecting.detach())
