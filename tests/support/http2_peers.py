"""HTTP/2 on loopback: an origin, and a client that may break any rule; both are h2's."""

from __future__ import annotations

import gc
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from looked_into import HOST, LookedInto, authority, client_context, looking_into, under_tls
from running_proxy import BOUND, connect

from nono_trio.proxy.http.http2.stream import Http2Stream
from nono_trio.proxy.intercept.session_authority import SessionAuthority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

Fields = list[tuple[bytes, bytes]]
LAX = {
    "header_encoding": False,
    "validate_inbound_headers": False,
    "normalize_inbound_headers": False,
    "validate_outbound_headers": False,
    "normalize_outbound_headers": False,
}


@dataclass
class Seen:
    """A request as the origin got it."""

    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields | None = None
    ended: bool = False
    reset: int | None = None

    def __getitem__(self, name: str) -> str:
        return dict(self.fields)[name.encode()].decode()


class Peer:
    """One end of a connection. `acknowledges`: windows are given back as bytes come."""

    def __init__(self, stream: trio.abc.Stream, *, is_client: bool) -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=is_client, **LAX))
        self.acknowledges = True
        self.answers_settings = True
        self.going: ConnectionTerminated | None = None
        self.ended = False
        self.was_reset = False  # while it sent: then what it did not read is lost
        self.received = 0

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def events(self) -> list[Event]:
        """The next events, and [] at the end; windows and settings are answered."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.ended = True
            return []
        self.received += len(data)
        events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, ConnectionTerminated):
                self.going = event
            elif isinstance(event, DataReceived) and self.acknowledges:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if self.going is None and self.answers_settings:
            await self.flush()
        return events


@dataclass
class Http2Origin:
    """An origin; call it with a connection. What it does with a request is in its path."""

    protocols: tuple[str, ...] = ("h2", "http/1.1")
    settings: dict[int, int] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    trailers: dict[int, Fields | None] = field(default_factory=dict)
    connections: int = 0
    raw: bytes = b""
    """It sends these bytes next."""
    released: trio.Event = field(default_factory=trio.Event)
    reads: bool = True
    """It gives windows back."""
    leaves_after: int | None = None
    """It sends GOAWAY once it has had so many requests, and still answers them."""
    leaves_each_after: int | None = None
    """It sends GOAWAY once a connection has had so many requests, and still answers them."""
    answers: dict[str, bytes] = field(default_factory=dict)
    """The body of the answer, by the end of the path."""

    async def __call__(self, stream: trio.SocketStream) -> None:
        tls = await SessionAuthority(authority("origin")).server_context(HOST, self.protocols)
        secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        await secure.do_handshake()
        self.connections += 1
        peer = Peer(secure, is_client=False)
        peer.acknowledges = self.reads
        if self.settings:
            peer.h2.local_settings.update(self.settings)
            peer.h2.local_settings.acknowledge()
        peer.h2.initiate_connection()
        await peer.flush()
        seen: dict[int, Seen] = {}
        to_send: dict[int, bytes] = {}
        async with trio.open_nursery() as nursery:
            while not peer.ended:
                for event in await peer.events():
                    if isinstance(event, RequestReceived):
                        one = seen[event.stream_id] = Seen(list(event.headers))
                        self.requests.append(one)
                        if one[":path"].startswith("/hold"):
                            nursery.start_soon(self.hold, peer, event.stream_id)
                        is_last = self.leaves_each_after == len(seen)
                        if is_last or self.leaves_after == len(self.requests):
                            frame = bytes([0, 0, 8, 7, 0, 0, 0, 0, 0])
                            frame += event.stream_id.to_bytes(4, "big") + bytes(4)
                            await peer.flush()
                            await secure.send_all(frame)
                        self.begin(peer, event.stream_id, one, to_send)
                    elif isinstance(event, DataReceived):
                        seen[event.stream_id].body += event.data
                    elif isinstance(event, TrailersReceived):
                        seen[event.stream_id].trailers = list(event.headers)
                    elif isinstance(event, StreamReset):
                        seen[event.stream_id].reset = event.error_code
                        to_send.pop(event.stream_id, None)
                    elif isinstance(event, StreamEnded):
                        seen[event.stream_id].ended = True
                        self.end(peer, event.stream_id, seen[event.stream_id], to_send)
                for number, left in [*to_send.items()]:
                    while left and (room := peer.h2.local_flow_control_window(number)):
                        room = min(room, 16384)
                        trailers = self.trailers.get(number)
                        is_last = len(left) <= room
                        ended = is_last and trailers is None
                        peer.h2.send_data(number, left[:room], end_stream=ended)
                        if is_last and trailers is not None:
                            peer.h2.send_headers(number, trailers, end_stream=True)
                        left = left[room:]
                    to_send[number] = left
                    if not left:
                        del to_send[number]
                if not peer.ended:
                    await peer.flush()
                    if self.raw:
                        await secure.send_all(self.raw)
                        self.raw = b""  # afterwards: a test that waits for it lets others send
            nursery.cancel_scope.cancel()

    async def hold(self, peer: Peer, number: int) -> None:
        await self.released.wait()
        peer.h2.send_headers(number, [(b":status", b"200")])
        peer.h2.send_data(number, b"held", end_stream=True)
        await peer.flush()

    def begin(self, peer: Peer, number: int, one: Seen, to_send: dict[int, bytes]) -> None:
        path = one[":path"].split("?")[0]
        last = path.rpartition("/")[2]
        if "/bytes/" in path:
            peer.h2.send_headers(number, [(b":status", b"200"), (b"content-length", last.encode())])
            to_send[number] = bytes(int(last))
        elif "/early" in path:
            peer.h2.send_headers(number, [(b":status", b"413")], end_stream=True)

    def end(self, peer: Peer, number: int, one: Seen, to_send: dict[int, bytes]) -> None:
        path = one[":path"].split("?")[0]
        if "/bytes/" in path or path.startswith("/hold") or "/early" in path:
            return
        status, fields, body, trailers = b"200", [(b"x-origin", b"yes")], b"ok", None
        if "/sink" in path:
            body = b"%d" % len(one.body)
        elif "/echo" in path:
            body = bytes(one.body)
            trailers = [(b"grpc-status", b"0"), *(one.trailers or [])]
        elif "/short" in path:
            fields.append((b"content-length", b"10"))
        elif "/bad" in path:
            fields.append((b"connection", b"close"))
        elif found := [text for last, text in self.answers.items() if path.endswith(last)]:
            body = found[0]
        elif "/unchanged" in path:
            status, body, fields = b"304", b"", [(b"content-length", b"10")]
        elif "/interim" in path:
            peer.h2.send_headers(number, [(b":status", b"103"), (b"link", b"x")])
        peer.h2.send_headers(number, [(b":status", status), *fields], end_stream=not body)
        if body:
            to_send[number] = body
            self.trailers[number] = trailers


@dataclass
class Answer:
    """The bytes and heads that came on one stream."""

    status: int = 0
    fields: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields | None = None
    ended: bool = False
    reset: int | None = None
    interim: list[int] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None


class Http2Client(Peer):
    """A client under TLS."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream, is_client=True)
        self.answers: dict[int, Answer] = {}
        self.agreed = False
        self.pinged = False

    async def start(self, settings: dict[int, int] | None = None) -> None:
        if settings:
            self.h2.local_settings.update(settings)
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        await self.flush()

    async def until(self, condition) -> None:
        """Read on until a condition holds, or the connection has ended."""
        with trio.fail_after(BOUND):
            while not condition() and not self.ended:
                await self.read()

    async def read(self) -> None:
        for event in await self.events():
            if isinstance(event, SettingsAcknowledged):
                self.agreed = True
            elif isinstance(event, PingAckReceived):
                self.pinged = True
            answer = self.answers.setdefault(getattr(event, "stream_id", 0) or 0, Answer())
            if isinstance(event, ResponseReceived):
                fields = list(event.headers)
                answer.status = int(fields[0][1])
                answer.fields = fields[1:]
            elif isinstance(event, InformationalResponseReceived):
                answer.interim.append(int(next(iter(event.headers))[1]))
            elif isinstance(event, DataReceived):
                answer.body += event.data
            elif isinstance(event, TrailersReceived):
                answer.trailers = list(event.headers)
            elif isinstance(event, StreamEnded):
                answer.ended = True
            elif isinstance(event, StreamReset):
                answer.reset = event.error_code

    def open(self, fields: Fields, *, ended: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        self.answers[number] = Answer()
        self.h2.send_headers(number, fields, end_stream=ended)
        return number

    async def ask(
        self, path: str, body: bytes | None = None, method: str = "GET",
        trailers: Fields | None = None, fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer:  # fmt: skip
        """One request, and its answer."""
        number = self.open([*head(path, method), *fields], ended=body is None and trailers is None)
        await self.flush()
        if body is not None:
            await self.send_body(number, body, ended=trailers is None)
        if trailers is not None:
            self.h2.send_headers(number, trailers, end_stream=True)
            await self.flush()
        return await self.answer(number)

    async def send_body(self, number: int, body: bytes, *, ended: bool = True) -> None:
        while body:
            await self.until(
                lambda: self.h2.local_flow_control_window(number) or self.answers[number].is_over
            )
            room = min(self.h2.local_flow_control_window(number), 16384)
            if self.answers[number].is_over:
                return
            piece, body = body[:room], body[room:]
            self.h2.send_data(number, piece, end_stream=ended and not body)
            await self.flush()

    async def answer(self, number: int) -> Answer:
        await self.until(lambda: self.answers[number].is_over)
        return self.answers[number]


def streams_held(path: str) -> int:
    """The streams for a path that anything of ours still holds; no other test may ask for it."""
    gc.collect()
    streams = [one for one in gc.get_objects() if type(one) is Http2Stream]
    return sum((b":path", path.encode()) in one.fields for one in streams)


def head(path: str, method: str = "GET", authority_field: str = HOST) -> Fields:
    return [
        (b":method", method.encode()),
        (b":scheme", b"https"),
        (b":authority", authority_field.encode()),
        (b":path", path.encode()),
    ]


@dataclass
class Multiplexing:
    """A proxy that looks into HOST, an HTTP/2 origin, and clients."""

    at: LookedInto
    origin: Http2Origin

    @asynccontextmanager
    async def client(
        self, alpn: tuple[str, ...] = ("h2", "http/1.1"), *, started: bool = True
    ) -> AsyncIterator[Http2Client]:
        async with self.at.proxy.client() as wire:
            answer = await wire.exchange(connect(f"{HOST}:443"), "CONNECT")
            assert answer is not None
            context: ssl.SSLContext = client_context(alpn=alpn)
            async with under_tls(wire, context=context) as secure:
                assert secure.stream.selected_alpn_protocol() == "h2"
                client = Http2Client(secure.stream)
                if started:
                    await client.start()
                yield client

    def requests(self) -> list[tuple[str | None, str | None, str]]:
        """The recorded requests."""
        events = self.at.proxy.recorder.events
        return [(e.method, e.path, e.decision) for e in events if e.method != "CONNECT"]

    @property
    def last_reason(self) -> str:
        return self.at.proxy.recorder.events[-1].reason or ""


def guarded(origin: Http2Origin) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """The origin, for clients that break rules or leave."""

    async def behaviour(stream: trio.SocketStream) -> None:
        try:
            await origin(stream)
        except* (ProtocolError, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    return behaviour


@asynccontextmanager
async def multiplexing(
    *rules: str, origin: Http2Origin | None = None, **settings: object
) -> AsyncIterator[Multiplexing]:
    origin = origin or Http2Origin()
    async with looking_into(*rules, behaviour=guarded(origin), **settings) as at:  # type: ignore[arg-type]
        yield Multiplexing(at, origin)
