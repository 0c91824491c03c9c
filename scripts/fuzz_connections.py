"""Fuzz targets: whole connections under intercepted TLS, with a client and a server in memory.

The handlers, authorizer, rules and recorder are the real ones. Only sockets and TLS are left out:
`Pipe` stands for both transports. An input is the client's bytes, and behind MARK the server's.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import h11
import trio
from fuzz_engine import Target, pieces, require
from fuzz_http2 import CLIENT_SEEDS, FRAME_TOKENS, SERVER_SEEDS, frame
from fuzz_parsers import HEAD_TOKENS
from fuzz_texts import SERVERS, covered
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from nono_trio.core.http.http2_frames import PREFACE
from nono_trio.core.log.redaction import redact_path
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.authorizer import RequestAuthorizer, Token
from nono_trio.proxy.access.token_failures import TokenFailures
from nono_trio.proxy.access.transparent_authorizer import InterceptedAuthorizer
from nono_trio.proxy.connection_handler import ProxyContext, Upstream
from nono_trio.proxy.http.connection import HttpConnection
from nono_trio.proxy.http.http2.multiplexed import MultiplexedConnection
from nono_trio.proxy.intercept.http2_state import Http2State
from nono_trio.proxy.intercept.interfaces import HTTP2
from nono_trio.proxy.limits import ProxyLimits
from nono_trio.proxy.transport.client import Client, ClientTable, Expired
from nono_trio.proxy.transport.relay import RelayBuffer
from nono_trio.testing import MemoryRecorder
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = b"\xf0=server=\xf0"
HOST = "allowed.test"
SETTINGS = frame(4, 0, 0)
RULES = (f"allow * https://{HOST}/ok/**", f"deny * https://{HOST}/ok/secret/**")
RUN_SECONDS = 5.0  # of trio's own clock; nothing here waits for a clock
MOST_PAUSES = 20_000
MOST_PIECES = 12  # of one side's bytes; each piece is a turn of trio's loop


class Pipe:
    """A transport whose peer sends `queued`, one piece for each pause, and keeps what it gets."""

    broken = failed = False

    sock = None
    protocol = ""
    is_registered = True

    def __init__(self, side: str, queued: list[bytes]) -> None:
        self.side = side
        self.waker = Waker()
        self.queued = queued
        self.arrived = b""
        self.got = bytearray()
        self.is_closed = False

    @property
    def ending(self) -> bool:
        """As `Transport.ending`."""
        return not self.queued and not self.arrived

    @property
    def readable(self) -> bool:
        """As `Transport.readable`."""
        return bool(self.arrived) or self.ending

    def step(self) -> bool:
        """Let the next piece arrive; return False at the end."""
        if self.queued:
            self.arrived += self.queued.pop(0)
            return True
        return False

    def try_receive(self, most: int = 1 << 15) -> bytes | None:
        """As `Transport.try_receive`."""
        if not self.arrived:
            return b"" if self.ending else None
        found, self.arrived = self.arrived[:most], self.arrived[most:]
        return found

    def try_receive_into(self, space: memoryview, most: int) -> int | None:
        """As `Transport.try_receive_into`."""
        data = self.try_receive(most)
        if data is None:
            return None
        space[: len(data)] = data
        return len(data)

    def try_send(self, data: bytes | memoryview) -> int:
        """As `Transport.try_send`."""
        require(not self.is_closed, "sent after the close")
        self.got += data
        return len(data)

    def send_last(self, data: bytes) -> None:
        """As `Transport.send_last`."""
        self.got += data

    def is_silent(self) -> bool:
        """As `Transport.is_silent`."""
        return not self.readable

    def has_bytes(self) -> bool:
        """As `Transport.has_bytes`."""
        return bool(self.arrived)

    def shutdown(self) -> bool:
        """As `Transport.shutdown`."""
        return True

    def finish(self) -> bool:
        """As `Transport.finish`."""
        return True

    def reset(self) -> None:
        """As `Transport.reset`."""

    want_write = register = cut = reset

    def close(self) -> None:
        """As `Transport.close`."""
        self.is_closed = True


class MemoryClient(Client):
    """A client over a `Pipe`. Each pause lets other tasks run, and the next pieces arrive."""

    __slots__ = ("pauses", "servers")

    def __init__(self, pipe: Pipe) -> None:
        self._waker = Waker()
        self.tcp = cast("Any", pipe)
        self.transport = cast("Any", pipe)
        self.origin = None
        self.unread = b""
        self.deadline = math.inf
        self.expired = self.idle = self.dropped = False
        self.proven = True
        self._table = ClientTable(places=1)
        self.servers: list[Pipe] = []
        self.pauses = 0

    async def pause(self, seconds: float | None = None) -> None:
        """As `Client.pause`; raises Expired once nothing more can arrive."""
        self.pauses += 1
        require(self.pauses < MOST_PAUSES, "it waits without end")
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        moved = [pipe.step() for pipe in (self.tcp, *self.servers)]
        if not any(moved) and self.pauses > 4 + len(self.servers):
            raise Expired

    async def pause_while(self, look: Callable[[], bool], seconds: float) -> None:
        """As `Client.pause_while`."""
        await self.pause(seconds)
        while look():
            await self.pause(seconds)


class MemoryConnection:
    """One connection in memory; `servers` are those that the proxy has dialled."""

    def __init__(self, data: bytes, first: bytes = b"") -> None:
        step, rest = (data[0] * 7 + 1 if data else 1), data[1:]
        client, _, server = rest.partition(MARK)
        step = max(step, len(rest) // MOST_PIECES + 1)
        self.pipe = Pipe("client", [*filter(None, [first]), *pieces(client, step)])
        self.client = MemoryClient(self.pipe)
        self.says, self.step = server, step
        self.recorder = MemoryRecorder()
        self.http2 = Http2State()
        self.context = _context(self.recorder, self)

    @property
    def servers(self) -> list[Pipe]:
        """The servers' ends."""
        return self.client.servers

    def dial(self, protocol: str) -> Upstream:
        """Return a connection to a server, which says the same each time."""
        first = SETTINGS if protocol == HTTP2 else b""
        pipe = Pipe("upstream", [*filter(None, [first]), *pieces(self.says, self.step)])
        pipe.protocol = protocol
        self.servers.append(pipe)
        return Upstream(cast("Any", pipe), "192.0.2.1", (HOST, 443), protocol=protocol)

    async def secure(self, *arguments: Any) -> Any:
        """As `Intercepts.secure`."""
        require(self.allowed(), "dialled before a record")
        return self.dial(arguments[-1][0]).transport

    def known(self, *_: object) -> Any:
        """As `AddressResolver.known`."""
        return self

    name, addresses = None, ()

    async def __call__(self, _: object) -> tuple[Any, str]:
        """As `Dialler`."""
        return self, "192.0.2.1"

    def fileno(self) -> int:
        """As a socket."""
        return -1

    def register(self, *_: object) -> None:
        """As a socket, and as `Readiness`."""

    close = forget = add_write = register

    def about(self) -> InterceptedAuthorizer:
        """The authorizer of the connection."""
        host = parse_host(HOST)
        return InterceptedAuthorizer(_policy(), host, 443, _policy().decide(host, 443))

    def run(self, serve: Callable[[], Any]) -> None:
        """Run it to its end; a log of a bug is a violation."""
        bugs = _Bugs()
        logger = logging.getLogger("nono_trio")
        logger.addHandler(bugs)
        try:
            trio.run(_within, serve)
        finally:
            logger.removeHandler(bugs)
        if bugs.causes:
            raise bugs.causes[0]
        require(self.context.buffer.held == 0, "bytes are held after the end")
        require(self.http2.open_streams == 0, "streams are open after the end")

    def allowed(self) -> list[tuple[str | None, str | None]]:
        """Method and path of each request that the log allows."""
        return [(one.method, one.path) for one in self.recorder.events if one.decision == "allow"]


async def _within(serve: Callable[[], Any]) -> None:
    with trio.fail_after(RUN_SECONDS):
        await serve()


class _Bugs(logging.Handler):
    """Keeps the exceptions that a handler has contained."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.causes: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.causes.append(record.exc_info[1])


@cache
def _policy() -> Policy:
    logging.getLogger("nono_trio").setLevel(logging.DEBUG)
    logging.getLogger("nono_trio").propagate = False
    return Policy.build(allow=[HOST], endpoints=RULES)


def _context(recorder: MemoryRecorder, world: Any) -> ProxyContext:
    return ProxyContext(
        policy=_policy(), authorizer=cast("Any", RequestAuthorizer(_policy(), Token("x"))),
        recorder=recorder, resolver=world, dialler=world, limits=ProxyLimits(), readiness=world,
        buffer=RelayBuffer(), token_failures=TokenFailures(recorder, lambda: 0), now=lambda: 0,
        interception=world,
    )  # fmt: skip


def _require_covered(
    requests: list[tuple[str, str]], run: MemoryConnection, *, times: int = 1
) -> None:
    """Each request that a server has read is on record, and rules open it. `times`: how often one
    of them may go out."""
    recorded = run.allowed() * times
    for method, path in requests:
        for server in SERVERS:
            resource = server(path)
            require(covered("/ok/**", resource), "an uncovered path went out", path, server)
            require(not covered("/ok/secret/**", resource), "a denied one went out", path, server)
        shown = (method, redact_path(path))
        require(shown in recorded, "a request without a record", shown, recorded)
        recorded.remove(shown)


def http1_connection(data: bytes) -> str:
    """A strict server reads what the log allows; nothing else of a client reaches it."""
    run = MemoryConnection(data)
    handler = HttpConnection(run.client, run.context, full=False)
    handler.authorizer = run.about()
    handler._is_under_tls = True  # what ends TLS sets it
    run.run(handler.handle)
    require(run.pipe.is_closed and all(one.is_closed for one in run.servers), "left open")
    seen: list[tuple[str, str]] = []
    for server in run.servers:
        seen += _requests(bytes(server.got), may_switch=b" 101" in run.says)
    _require_covered(seen, run, times=2)  # once more if the server has closed a kept connection
    denied = len(run.recorder.events) - len(run.allowed())
    ends = [flow.closed_by for flow in run.recorder.flows]
    return f"{min(len(seen), 4)} {min(denied, 4)} {ends[:3]}"


def _requests(wire: bytes, *, may_switch: bool) -> list[tuple[str, str]]:
    """The requests that h11's server reads. The last may be cut; other bytes follow a 101."""
    found: list[tuple[str, str]] = []
    while wire:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 18)
        connection.receive_data(wire)
        event = connection.next_event()
        if not isinstance(event, h11.Request):
            require(event is h11.NEED_DATA, "a server reads no request", event)
            break
        found.append((event.method.decode(), event.target.decode()))
        if may_switch and any(name == b"upgrade" for name, _ in event.headers):
            break
        while isinstance(event := connection.next_event(), h11.Data):
            pass
        if not isinstance(event, h11.EndOfMessage):
            break
        wire = connection.trailing_data[0]
    return found


def http2_connection(data: bytes) -> str:
    """A server reads by HTTP/2 what the log allows, whatever both sides send."""
    run = MemoryConnection(data, PREFACE + SETTINGS)

    async def serve() -> None:
        about = run.client, run.context, run.about(), 443, run.dial(HTTP2)
        try:
            await MultiplexedConnection(*about).serve_streams()
        except (OSError, Expired):
            return

    run.run(serve)
    seen: list[tuple[str, str]] = []
    for server in run.servers:
        seen += _http2_requests(bytes(server.got))
    _require_covered(seen, run)
    denied = [one.reason or "" for one in run.recorder.events if one.decision != "allow"]
    return f"{min(len(seen), 4)} {sorted({*denied})[:2]} {len(run.recorder.flows)}"


def _http2_requests(wire: bytes) -> list[tuple[str, str]]:
    config = H2Configuration(client_side=False, header_encoding=False)
    server = H2Connection(config)
    server.initiate_connection()
    found = []
    for event in server.receive_data(wire):
        if isinstance(event, RequestReceived):
            fields = dict(event.headers)
            require(fields[b":authority"] == HOST.encode(), "another authority", fields)
            found.append((fields[b":method"].decode(), fields[b":path"].decode()))
    return found


_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
_GET = b"GET /ok/x HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
_POST = b"POST /ok/y HTTP/1.1\r\nHost: allowed.test\r\n"
_WEBSOCKET = (
    b"GET /ok/w HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_SWITCH = (
    b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HTTP1_SEEDS = (
    b"\xff" + _GET.replace(b"/ok/x", b"/no/../ok/a/%2e%2E/%78;y?z=%7e") + _GET + MARK + _OK,
    b"\xff" + _GET + MARK + _OK,
    b"\x03" + _GET + _POST + b"Content-Length: 3\r\n\r\nabc" + _GET + MARK + _OK * 3,
    b"\xff" + _POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + _GET + MARK
    + _CHUNKED + _OK,
    b"\xff" + _GET.replace(b"/ok/x", b"/ok/secret/x") + _GET + MARK + _OK,
    b"\xff" + _WEBSOCKET + b"\x81\x00" + _GET + MARK + _SWITCH + b"\x81\x00",
    b"\x03" + _WEBSOCKET + 40 * b"\x81\x00" + MARK + _SWITCH + 40 * b"\x81\x00",
    b"\xff" + _WEBSOCKET + _GET.replace(b"/ok/x", b"/no") + MARK + _OK + _OK,
    b"\xff" + _POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab" + MARK
    + b"HTTP/1.1 100 C\r\n\r\n" + _OK,
    b"\xff" + _GET.replace(b"GET", b"HEAD") + _GET + MARK + _OK[:-2] + _OK,
)  # fmt: skip
HTTP2_SEEDS = tuple(
    client + MARK + server[1:] for client in CLIENT_SEEDS for server in SERVER_SEEDS
)
HTTP1_TOKENS = (
    *HEAD_TOKENS, b"0\r\n\r\n", _GET, _GET.replace(b"/ok/x", b"/ok/secret/x"), _OK, _POST, MARK,
    b"HTTP/1.1 101 S\r\n\r\n", b"HTTP/1.1 204 N\r\n\r\n", b"/ok/../no", b"/ok/%2e%2e/no",
)  # fmt: skip

TARGETS = (
    Target("http1-connection", "a connection of HTTP/1.1 from client to server", http1_connection,
           HTTP1_SEEDS, HTTP1_TOKENS),
    Target("http2-connection", "a connection of HTTP/2 from client to server", http2_connection,
           HTTP2_SEEDS, (*FRAME_TOKENS, MARK)),
)  # fmt: skip
