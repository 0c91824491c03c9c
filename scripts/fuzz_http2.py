"""Fuzz targets: frames of HTTP/2 from a client, and from a server, over a transport in memory."""

from __future__ import annotations

from typing import Any, cast

from fuzz_engine import Target, pieces, require
from h2.events import DataReceived, RequestReceived, ResponseReceived, TrailersReceived
from hpack import Encoder

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.http2_frames import PREFACE, Http2Fault
from nono_trio.core.http.http2_head import (
    FieldFault,
    check_trailers,
    outgoing_fields,
    request_bytes,
    response_head,
)
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.http.response_head import BadResponse
from nono_trio.proxy.http.http2.peer import MAX_UNSENT, Http2Peer

MOST_EVENTS = 200_000
AUTHORITY = b"allowed.test"


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """One frame (RFC 9113 4.1)."""
    start = len(content).to_bytes(3, "big") + bytes([kind, flags])
    return start + stream.to_bytes(4, "big") + content


def head(path: bytes, method: bytes = b"GET", *fields: tuple[bytes, bytes]) -> bytes:
    """The block of a request's head."""
    pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", AUTHORITY)]
    return bytes(Encoder().encode([*pseudo, (b":path", path), *fields], huffman=False))


class Wire:
    """A transport whose peer has sent `queued` and reads what it gets."""

    side = "client"
    readable = True

    def __init__(self, queued: list[bytes]) -> None:
        self.queued = queued
        self.sent = 0

    def try_receive(self, most: int) -> bytes:
        """As `Transport.try_receive`; b"" at the end."""
        if not self.queued:
            return b""
        first = self.queued.pop(0)
        if len(first) > most:
            self.queued.insert(0, first[most:])
        return first[:most]

    def try_send(self, data: bytes) -> int:
        """As `Transport.try_send`."""
        self.sent += len(data)
        return len(data)


def _read(peer: Http2Peer, step: int) -> tuple[list[str], str]:
    """Read all; return what the events say, and how it ended."""
    said: list[str] = []
    for _ in range(MOST_EVENTS):
        try:
            events = peer.receive(0.0)
        except Http2Fault as fault:
            require(fault.reason.isprintable(), "unprintable", fault.reason)
            return said, fault.reason
        if events is None:
            require(peer.has_ended or peer.unsent > MAX_UNSENT, "it stops reading")
            return said, "ended"
        said.extend(_take(peer, event) for event in events)
        peer.flush()
    raise AssertionError(f"no end after {MOST_EVENTS} reads of {step} bytes")


def _take(peer: Http2Peer, event: Any) -> str:
    kind = type(event).__name__
    if isinstance(event, RequestReceived):
        fields = list(event.headers)
        try:
            raw = request_bytes(fields, 443, ended=event.stream_ended is not None)
            parsed = parse_head(raw)
        except BadRequest as fault:
            return f"{kind} {fault.reason}"
        require(raw.count(b"\n") == len(parsed.fields) + 2, "other lines than fields", raw)
        for name, value in outgoing_fields(fields, expects=False):
            require(not {*b"\r\n\0"} & {*name, *value}, "two lines in one", name, value)
    elif isinstance(event, ResponseReceived):
        try:
            response_head(list(event.headers), "GET")
        except BadResponse as fault:
            return f"{kind} {fault.reason}"
    elif isinstance(event, TrailersReceived):
        try:
            check_trailers([(bytes(name), bytes(value)) for name, value in event.headers])
        except FieldFault as fault:
            return f"{kind} {fault.reason}"
    elif isinstance(event, DataReceived):
        peer.return_window(event.flow_controlled_length)
        if event.data:
            peer.return_stream_window(event.stream_id, len(event.data))
        if peer.room(event.stream_id):
            peer.send_body(event.stream_id, event.data[: peer.room(event.stream_id)], ended=False)
    return kind


def client(data: bytes) -> str:
    """A client's bytes are events, and at most one fault at the end."""
    return _both_ways(data, is_client=True)


def server(data: bytes) -> str:
    """A server's bytes are events, and at most one fault at the end."""
    return _both_ways(data, is_client=False)


def _both_ways(data: bytes, *, is_client: bool) -> str:
    step, wire = (data[0] * 5 + 1 if data else 1), data[1:]
    whole, cut = (_run(wire, size, is_client=is_client) for size in (1 << 20, step))
    # Of two faults in one read the later one may be found first: frames are counted before h2.
    ends = whole[1] == "ended", cut[1] == "ended"
    require(ends[0] == ends[1], "the end depends on the pieces", whole, cut)
    if ends[0]:
        require(whole[0] == cut[0], "the events depend on the pieces", whole, cut)
    return f"{whole[1]} {'+'.join(sorted({*whole[0]}))[:120]}"


def _run(wire: bytes, step: int, *, is_client: bool) -> tuple[list[str], str]:
    start = PREFACE if is_client else b""
    transport = Wire([start + frame(4, 0, 0), *pieces(wire, step)])
    peer = Http2Peer(cast("Any", transport), is_client=is_client)
    if not is_client:
        peer.receive(0.0)
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", AUTHORITY)]
        for path in (b"/a", b"/b", b"/c"):
            peer.open_stream([*fields, (b":path", path)], ended=path != b"/c")
    said = _read(peer, step)
    for stream in (1, 3, 5, 7):
        peer.send_head(stream, [(b":status", b"200")])
        peer.reset_stream(stream, 8)
    peer.refuse_more()
    peer.take_unsent()
    return said


FRAME_TOKENS = (
    *(frame(kind, flags, at) for kind in (0, 1, 4, 9) for flags in (0, 1, 5) for at in (1, 3)),
    frame(3, 0, 1, bytes(4)), frame(7, 0, 0, bytes(8)), frame(8, 0, 0, b"\x7f\xff\xff\xff"),
    frame(8, 0, 1, b"\0\0\0\1"), frame(6, 0, 0, bytes(8)), frame(4, 0, 0, b"\0\4\x7f\xff\xff\xff"),
    frame(4, 0, 0, b"\0\1\0\0\0\0"), frame(4, 0, 0, b"\0\5\0\0\0\1"), frame(5, 4, 1, bytes(4)),
    b"\x3f\xe1\xff\x7f", b"\x20", b"\x88", b"\x82", b"\xbe", b"\0\0\5",
)  # fmt: skip
CLIENT_SEEDS = (
    b"\0" + frame(1, 5, 1, head(b"/no/../ok/a/%2e%2E/%78;y?z=%7e")) + frame(1, 5, 3, head(b"/no")),
    b"\0" + frame(1, 5, 1, head(b"/ok/x")) + frame(1, 4, 3, head(b"/ok/y", b"POST"))
    + frame(0, 0, 3, b"body") + frame(1, 5, 3, bytes(Encoder().encode([(b"x-end", b"1")]))),
    b"\3" + frame(1, 1, 1, head(b"/ok/x")[:9]) + frame(9, 4, 1, head(b"/ok/x")[9:])
    + frame(8, 0, 0, b"\0\0\1\0") + frame(3, 0, 1, b"\0\0\0\x08") + frame(6, 0, 0, bytes(8)),
    b"\5" + frame(1, 0x2D, 1, b"\2\0\0\0\0\x0f" + head(b"/ok/x") + b"\0\0")
    + frame(0, 9, 1, b"\1x\0") + frame(2, 0, 1, bytes(5)) + frame(99, 0, 1, b"?"),
    b"\7" + frame(4, 1, 0) + frame(4, 0, 0, b"\0\3\0\0\0\x64" + b"\0\4\0\1\0\0")
    + frame(1, 4, 5, head(b"/ok/sink", b"POST", (b"content-length", b"3")))
    + frame(0, 1, 5, b"abc"),
)  # fmt: skip
SERVER_SEEDS = (
    b"\0" + frame(1, 4, 1, b"\x88") + frame(0, 1, 1, b"hello") + frame(1, 5, 3, b"\x8d"),
    b"\2" + frame(1, 4, 5, bytes(Encoder().encode([(b":status", b"100")])))
    + frame(1, 4, 5, b"\x88") + frame(0, 0, 5, b"x") + frame(1, 5, 5, b"\x40\1a\1b"),
    b"\4" + frame(7, 0, 0, b"\0\0\0\1" + bytes(4)) + frame(3, 0, 3, b"\0\0\0\x07")
    + frame(8, 0, 5, b"\0\0\1\0") + frame(6, 1, 0, bytes(8)),
)  # fmt: skip

TARGETS = (
    Target("http2-client", "frames of an HTTP/2 client", client, CLIENT_SEEDS, FRAME_TOKENS),
    Target("http2-server", "frames of an HTTP/2 server", server, SERVER_SEEDS, FRAME_TOKENS),
)
