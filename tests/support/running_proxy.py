"""A real proxy on loopback for tests, and a client that sends it raw bytes."""

from __future__ import annotations

import base64
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import trio
from msgspec.structs import replace

from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.limits import ProxyLimits
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.testing import FakeResolver, LoopbackDialler, MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from nono_trio.core.log.events import Flow
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.proxy.access.route_authorizer import HeldRoute
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.intercept.interfaces import Intercepts

TOKEN = "7d1f00c0ffee"
AUTH = "Basic " + base64.b64encode(f"nono:{TOKEN}".encode()).decode()
BOUND = 60.0  # seconds for an immediate step, on a slow machine under load
# QUICK is for tests that wait for a limit. All others use PATIENT: a busy machine may pause longer.
QUICK = ProxyLimits(
    head=0.3, keep_alive=0.3, resolve=0.3, dial=0.3, idle=0.5, linger=0.3, sweep=0.02
)
PATIENT = replace(QUICK, head=30.0, keep_alive=30.0, resolve=30.0, dial=30.0, idle=30.0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, within BOUND."""
    with trio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - what real sockets do sets no event
            await trio.sleep(0.005)


def http(method: str, url: str, *fields: str, body: bytes = b"") -> bytes:
    """A plain request with the token; its Host is the host of `url`."""
    host = url.removeprefix("http://").split("/")[0]
    lines = [f"{method} {url} HTTP/1.1", f"Host: {host}", f"Proxy-Authorization: {AUTH}", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body


def connect(target: str, *fields: str) -> bytes:
    """A CONNECT with the token."""
    lines = [
        f"CONNECT {target} HTTP/1.1",
        f"Host: {target}",
        f"Proxy-Authorization: {AUTH}",
        *fields,
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


@dataclass
class Answer:
    """One response; `complete` is False if it was cut off."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = True


class Wire:
    """A client's connection; reads responses with h11 and keeps the bytes after them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.unread = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self) -> bytes:
        """The bytes that have come, at least one; b"" at the end."""
        data, self.unread = self.unread, b""
        with trio.fail_after(BOUND):
            return data or await self.stream.receive_some(65536)

    async def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await self.receive()
            assert more, f"the connection ended after {data!r}"
            data += more
        data, self.unread = data[:count], data[count:]
        return data

    async def ends(self) -> bool:
        """True if the connection ends, cleanly or by reset, before another byte."""
        try:
            return await self.receive() == b""
        except trio.BrokenResourceError:
            return True

    async def answer(self, method: str = "GET") -> Answer | None:
        """The next final response; None if the connection ended instead."""
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        if method != "CONNECT":
            parser.send(h11.EndOfMessage())
        answer: Answer | None = None
        while True:
            event = await self._next_event(parser)
            if isinstance(event, h11.Response):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                answer = Answer(event.status_code, headers)
                if method == "CONNECT" and event.status_code == 200:
                    break
            elif isinstance(event, h11.Data):
                assert answer is not None
                answer.body += bytes(event.data)
            elif not isinstance(event, h11.InformationalResponse):
                if answer is not None:
                    answer.complete = isinstance(event, h11.EndOfMessage)
                break
        self.unread += parser.trailing_data[0]
        return answer

    async def exchange(self, request: bytes, method: str = "GET") -> Answer | None:
        """Send a request and read its answer."""
        await self.send(request)
        return await self.answer(method)

    async def _next_event(self, parser: h11.Connection) -> object:
        try:
            while (event := parser.next_event()) is h11.NEED_DATA:
                parser.receive_data(await self.receive())
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            return None  # cut off
        return event

    async def end(self) -> None:
        await self.stream.send_eof()

    def reset(self) -> None:
        """Close with a reset."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.socket.close()


@dataclass
class Running:
    """A proxy that accepts on `port`. Cancel `connections` to cut the open connections."""

    port: int
    recorder: MemoryRecorder
    resolver: FakeResolver
    dialler: LoopbackDialler | None
    accepting: trio.CancelScope
    connections: trio.CancelScope
    ended: trio.Event
    """Set when accepting has ended and every connection has ended uncut."""
    proxy: Proxy

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Wire]:
        """Yield one connection to the proxy."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            yield Wire(stream)

    async def ask(self, request: bytes, method: str = "GET") -> Answer | None:
        """Send one request on a connection of its own."""
        async with self.client() as wire:
            await wire.send(request)
            return await wire.answer(method)

    async def events(self, count: int) -> list[tuple[str, str, int | None]]:
        """All events as (decision, target, port), once there are `count`."""
        await until(lambda: len(self.recorder.events) >= count)
        return [(event.decision, event.target, event.port) for event in self.recorder.events]

    async def flows(self, count: int) -> Sequence[Flow]:
        """All flows, once there are `count`."""
        await until(lambda: len(self.recorder.flows) >= count)
        return self.recorder.flows


@asynccontextmanager
async def running(
    allow: Iterable[str] = (),
    *,
    resolve: Iterable[str] = (),
    recorder: MemoryRecorder | None = None,
    resolver: FakeResolver | None = None,
    dialler: LoopbackDialler | None = None,
    limits: ProxyLimits = PATIENT,
    search: Sequence[str] = (),
    upstream_proxy: UpstreamProxy | None = None,
    admits: Callable[[tuple[str, int]], bool] | None = None,
    shared: bool = False,
    endpoints: Iterable[str] = (),
    intercept: Iterable[str] = (),
    no_intercept: Sequence[str] = (),
    interception: Intercepts | None = None,
    routes: Sequence[HeldRoute] = (),
    credentials: Credentials | None = None,
    observe: bool = False,
) -> AsyncIterator[Running]:
    """Yield a proxy that serves until the block ends; then every connection is cut."""
    recorder, resolver = recorder or MemoryRecorder(), resolver or FakeResolver()
    policy = Policy.build(
        allow=list(allow), resolve=list(resolve), search=search, endpoints=list(endpoints),
        intercept=list(intercept),
        no_intercept=no_intercept, observe=observe,
    )  # fmt: skip
    proxy = Proxy(
        policy, recorder, TOKEN,
        resolver=resolver, dialler=dialler, limits=limits, upstream_proxy=upstream_proxy,
        interception=interception, credentials=credentials,
        routes=routes,
    )  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    accepting, connections = trio.CancelScope(), trio.CancelScope()
    ended = trio.Event()

    async def host(task_status: trio.TaskStatus[None]) -> None:
        # In its own task, because cancelling a scope here must not cancel the test around it.
        with connections:
            async with trio.open_nursery() as handlers:
                with accepting:
                    await proxy.serve(
                        listener, handlers, admits=admits, shared=shared, task_status=task_status
                    )
            ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(host)
        yield Running(port, recorder, resolver, dialler, accepting, connections, ended, proxy)
        connections.cancel()
