"""Fuzz targets: the readers of bytes from the network and from the memory of the command."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import cache

import h11
from fuzz_engine import Target, pieces, require

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.chunked import MAX_LINES, BadBody, ChunkedBody
from nono_trio.core.http.http2_head import (
    FieldFault,
    check_trailers,
    outgoing_fields,
    request_bytes,
    response_head,
)
from nono_trio.core.http.request_head import head_end, parse_head
from nono_trio.core.http.response_head import BadResponse, parse_response, response_end
from nono_trio.core.http.target import connect_target, http_target, origin_target
from nono_trio.core.http.websocket import offered_key
from nono_trio.core.net import dns
from nono_trio.core.net.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.core.net.host import Host
from nono_trio.core.net.ip_packet import destination, ends, source
from nono_trio.core.net.sockaddr import BadSocketAddress, parse_socket_address
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.access.hello_guard import HelloGuard

GUARDED = "guarded.example.com"


def request_head(data: bytes) -> str:
    """The end is the same however the bytes come; an accepted head is the same to h11."""
    step, wire = (data[0] % 9 + 1 if data else 1), data[1:]
    whole, cut = _head_end(wire, len(wire) + 1), _head_end(wire, step)
    require(whole == cut, "the end depends on the pieces", whole, cut)
    end = wire.find(b"\r\n\r\n") + 4
    if end == 3:
        return f"open {whole}"
    raw = wire[:end]
    try:
        head = parse_head(raw)
    except BadRequest as fault:
        _check_fault(fault)
        return f"{fault.status} {fault.reason}"
    require(whole == end, "parse_head takes what head_end refuses", whole)
    method, target, fields = _by_h11(raw)
    require((head.method.encode(), head.target.encode()) == (method, target), "h11 differs")
    require(list(head.fields) == fields, "h11 has other fields", head.fields, fields)
    offered_key(head)
    found = []
    for read in (connect_target, http_target, lambda one: origin_target(one, Host("a.test"), 80)):
        try:
            found.append(str(read(head)))
        except BadRequest as fault:
            _check_fault(fault)
            found.append("")
    return f"accepted {head.body} {head.keep_alive} {[bool(one) for one in found]}"


def _head_end(wire: bytes, step: int) -> int | str:
    buffer, seen = bytearray(), 0
    for piece in pieces(wire, step):
        buffer += piece
        try:
            found = head_end(buffer, seen)
        except BadRequest as fault:
            _check_fault(fault)
            return f"{fault.status} {fault.reason} {fault.target}"
        if found >= 0:
            return found
        seen = len(buffer)
    return -1


def _check_fault(fault: BadRequest) -> None:
    for text in (fault.reason, fault.target):
        require(text.isascii() and (text.isprintable() or not text), "unprintable", text)


def _by_h11(raw: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
    connection.receive_data(raw)
    event = connection.next_event()
    require(isinstance(event, h11.Request), "h11 reads no request", event)
    return (
        event.method,
        event.target,
        [(bytes(name), bytes(value)) for name, value in event.headers],
    )


def response(data: bytes) -> str:
    """An accepted head of a response has the status and fields that h11 reads."""
    method, wire = ("HEAD", "GET", "POST")[data[0] % 3] if data else "GET", data[1:]
    try:
        end = response_end(wire)
        if end < 0:
            return "open"
        head = parse_response(wire[:end], method, b"dGhlIHNhbXBsZSBub25jZQ==")
    except BadResponse as fault:
        return fault.reason
    if head.switches:
        return "switched"
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 17)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.receive_data(wire[:end])
    event = connection.next_event()
    require(event.status_code == head.status, "h11 has another status", event)
    kept = [(name.lower(), value) for name, value in head.fields]
    theirs = [(bytes(name), bytes(value)) for name, value in event.headers]
    if head.status != 204:
        same = [(name, value.lower()) for name, value in kept]  # h11 lowers a transfer coding
        require(same == [(name, value.lower()) for name, value in theirs], "h11 differs", kept)
    for name, value in head.started(1).fields:
        require(not {*b"\r\n\0"} & {*name, *value}, "two lines in one", name, value)
    return f"accepted {head.status // 100} {type(head.body).__name__} {head.keep_alive}"


def chunked(data: bytes) -> str:
    """The body is the same however the bytes come, and h11 finds the same."""
    step, wire = (data[0] % 17 + 1 if data else 1), data[1:]
    whole, cut = _chunks(wire, len(wire) + 1), _chunks(wire, step)
    require(whole[:2] == cut[:2] or not whole[0] == cut[0] == "open", "pieces matter", whole, cut)
    if whole[0] == "done" or cut[0] == "done":
        require(whole == cut, "the end depends on the pieces", whole, cut)
        _, body, used, trailers = whole
        require(_chunks_by_h11(wire[:used]) == (body, trailers), "h11 differs", whole)
    return whole[0]


def _chunks(wire: bytes, step: int) -> tuple[str, bytes, int, list[tuple[bytes, bytes]]]:
    body, held, found, used = ChunkedBody(), b"", b"", 0
    for piece in pieces(wire, step):
        held += piece
        while held and not body.done:
            try:
                data, taken = body.read(held)
            except BadBody as fault:
                return fault.reason, b"", 0, []
            found += data
            used += taken
            held = held[taken:]
            if not taken:
                break
    trailers = [(name.lower(), value) for name, value in body.trailers]
    return ("done" if body.done else "open"), found, used, trailers


def _chunks_by_h11(wire: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    connection.receive_data(wire)
    found = b""
    while isinstance(event := connection.next_event(), h11.Data):
        found += event.data
    require(isinstance(event, h11.EndOfMessage), "h11 finds no end", event)
    require(connection.trailing_data == (b"", False), "h11 finds an earlier end", wire)
    return found, [(bytes(name), bytes(value)) for name, value in event.headers]


def http2_fields(data: bytes) -> str:
    """A head of HTTP/2 that is accepted has the same fields as HTTP/1.1, one line each."""
    parts = data.split(b"\x01")
    fields = [(one, value) for one, _, value in (part.partition(b"\x02") for part in parts)]
    with suppress(FieldFault):
        check_trailers(fields)
    with suppress(BadResponse):
        _, kept, _ = response_head(fields, "GET")
        for name, value in kept:
            require(not {*b"\r\n\0"} & {*name, *value}, "two lines in one", name, value)
    try:
        raw = request_bytes(fields, 443, ended=len(data) % 2 == 0)
        head = parse_head(raw)
    except BadRequest as fault:
        _check_fault(fault)
        return f"{fault.status} {fault.reason}"
    rest = [field for field in fields if field[0][:1] != b":" and field[0] != b"host"]
    added = [field for field in head.fields if field[0] not in (b"host", b"transfer-encoding")]
    require(added == rest, "other fields than those that came", added, rest)
    require(raw.count(b"\r\n") == len(head.fields) + 2, "other lines than fields", raw)
    require(raw.count(b"\n") == raw.count(b"\r"), "a bare line feed", raw)
    for name, value in outgoing_fields(fields, expects=True):
        require(not {*b"\r\n\0"} & {*name, *value}, "two lines in one", name, value)
    return f"accepted {head.body}"


@cache
def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return context


def openssl_names(wire: bytes) -> list[str | None]:
    """The server names that OpenSSL's server reads in a client's bytes."""
    context, names = _server_context(), list[str | None]()

    def note(_connection: object, name: str | None, _context: object) -> None:
        names.append(name)

    context.sni_callback = note
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(wire)
    with suppress(ssl.SSLError, UnicodeError, ValueError):
        server.do_handshake()
    return [name for name in names if name is not None]


def client_hello(data: bytes) -> str:
    """A verdict does not change with more bytes; a name is the one that OpenSSL reads."""
    try:
        read = read_client_hello(data)
    except BadHello as fault:
        return fault.reason
    if not isinstance(read, ClientHello):
        require(read > len(data), "it waits for bytes that it has", read)
        return "open"
    try:
        again = read_client_hello(data + b"\x16\x03\x01\x00\x01")
    except BadHello as fault:
        again = fault
    require(again == read, "more bytes change it", read, again)
    for name in openssl_names(data):
        require(read.server_name == name, "OpenSSL reads another name", read, name)
    return f"hello {read.server_name is None} {len(read.alpn)} {read.hides_name}"


@cache
def _guarding_policy() -> Policy:
    return Policy.build(
        allow=["tcp://other.example.com:443"],
        endpoints=[f"allow GET https://{GUARDED}/ok/**"],
    )


def hello_guard(data: bytes) -> str:
    """In a tunnel of raw bytes no hello for a guarded host reaches a server that is OpenSSL."""
    step, wire = (data[0] * 3 + 1 if data else 1), data[1:]
    guard, passed, outcome = HelloGuard(_guarding_policy()), b"", "passed"
    following = True
    for piece in pieces(wire, step):
        try:
            following = following and not guard.client_says(piece)
        except (BadHello, OtherHello) as fault:
            outcome = type(fault).__name__ + str(getattr(fault, "reason", ""))
            break
        passed += piece
    names = [name.lower().rstrip(".") for name in openssl_names(passed)]
    require(GUARDED not in names, "a guarded name went through", names, passed)
    return outcome


def dns_query(data: bytes) -> str:
    """A query has an answer of its own that fits a datagram; other bytes get one or silence."""
    try:
        query = dns.parse_query(data)
    except dns.BadQuery as fault:
        if fault.reply is not None:
            require(fault.reply[:2] == data[:2] and fault.reply[2] & 0x80, "no answer to it")
            require(len(fault.reply) <= 512, "a long answer", fault.reply)
        require(fault.name is None or fault.name.isprintable(), "unprintable", fault.name)
        return fault.reason
    require(query.name.isascii() and (query.name.isprintable() or not query.name), "unprintable")
    for answer in (
        dns.empty_answer(query, dns.REFUSED),
        dns.address_answer(query, *(one for one in [dns.reversed_address(query.name)] if one)),
        dns.pointer_answer(query, "a.example.com"),
    ):
        require(answer[:2] == data[:2] and len(answer) <= 512, "a long answer", answer)
        require(query.question in answer, "another question", answer)
    return f"query {min(query.kind, 64)} {query.edns}"


def child_bytes(data: bytes) -> str:
    """Socket addresses in the memory of the command, and packets that it has sent."""
    try:
        outcome = type(parse_socket_address(data, "little")).__name__
    except BadSocketAddress:
        outcome = "bad"
    found = destination(data), source(data)
    if found[0] is not None:
        require(found[1] is not None, "a destination without a source", found)
        ends(data)
    return f"{outcome} {found[0] and found[0].protocol} {found[0] and found[0].port is None}"


HEAD = (
    b"GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\nX-A: b\r\n\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n",
    b"GET /w HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
)
HEAD_TOKENS = (
    b"\r\n\r\n", b"\r\n ", b"\n\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n",
    b"Content_Length: 5\r\n", b"Connection: keep-alive\r\n", b"Upgrade: h2c\r\n", b"Host: b\r\n",
    b" HTTP/1.0", b"\x0b", b"\x85", b"chunked", b"gzip, chunked", b"+5", b"0x5", b"http://[::1]:80/",
    b"HTTP/2.0", b"TRACE", b":443", b"@", b"\\", b"#", b"%2f",
)  # fmt: skip
CHUNKS = (
    b"5\r\nhello\r\n0\r\n\r\nGET",
    b'A;x="y"\r\n0123456789\r\n1\r\nz\r\n000\r\nX: y\r\n\r\n',
    b"1\r\na\r\n" * (MAX_LINES + 3) + b"0\r\n\r\n",
)
_BASE = b":method\x02GET\x01:scheme\x02https\x01:authority\x02a.test\x01:path\x02/x"
FIELDS = (
    _BASE, _BASE + b"\x01accept\x02*/*\x01host\x02a.test\x01content-length\x025",
    _BASE + b"\x01te\x02trailers\x01expect\x02100-continue\x01cookie\x02a=b",
    b":status\x02200\x01content-length\x025\x01x\x02y",
)  # fmt: skip


def _hello(name: str | None, newest: ssl.TLSVersion | None = None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    if newest is not None:
        context.maximum_version = newest
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _in_records(hello: bytes, size: int) -> bytes:
    return b"".join(
        hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces(hello[5:], size)
    )


HELLOS = tuple(
    hello
    for name in ("a.test", GUARDED, None)
    for whole in (_hello(name), _hello(name, ssl.TLSVersion.TLSv1_2))
    for hello in (whole, _in_records(whole, 100), _in_records(whole, 1 + len(whole) // 30))
)
HELLO_TOKENS = (
    b"\x16\x03\x01", b"\x15\x03\x03\x00\x02\x01\x5a", b"\x14\x03\x03\x00\x01\x01", b"\x00\x00",
    b"\x17\x03\x03", GUARDED.encode(), GUARDED.upper().encode() + b".", b"\xfe\x0d\x00\x00",
    b"\x00\x29", b"\x80\x2e\x01\x03\x01",
)  # fmt: skip
_QUERY = b"\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07Example\x03com\x00\x00\x01\x00\x01"
QUERIES = (
    _QUERY,
    _QUERY[:11] + b"\x01" + _QUERY[12:] + b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00",
    b"\0\1\1\0\0\1\0\0\0\0\0\0\x011\x010\x010\x03127\x07in-addr\x04arpa\0\0\x0c\0\1",
)
PACKETS = (
    b"\x02\x00\x01\xbb\x7f\x00\x00\x01" + bytes(8),
    b"\x0a\x00\x01\xbb" + bytes(4) + bytes(15) + b"\x01" + bytes(4),
    b"\x01\x00/run/x\x00",
    bytes.fromhex("4500002800004000400600007f0000017f000001") + b"\x1f\x90\x01\xbb" + bytes(16),
    bytes.fromhex("6000000000142c40") + bytes(32) + b"\x06\x00\x00\x00" + bytes(24),
)

TARGETS = (
    Target("request-head", "heads of HTTP/1.1 requests", request_head,
           [b"\x03" + head for head in HEAD], HEAD_TOKENS),
    Target("response-head", "heads of HTTP/1.1 responses", response, [
        b"\x01HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n",
        b"\x01HTTP/1.1 100 Continue\r\n\r\n", b"\x00HTTP/1.0 304 No\r\nConnection: x\r\n\r\n",
        b"\x02HTTP/1.1 204\r\nContent-Length: 0\r\n\r\n",
        b"\x01HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"\x01HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ], HEAD_TOKENS),
    Target("chunked", "chunked bodies", chunked, [b"\x02" + one for one in CHUNKS],
           (b"0\r\n\r\n", b"\r\n", b";", b"ffffffffffffffff", b"Host: x\r\n")),
    Target("http2-fields", "fields of HTTP/2, written as HTTP/1.1", http2_fields, FIELDS,
           (b"\x01", b"\x02", b":path\x02/y", b"host\x02b", b"transfer-encoding\x02chunked",
            b"content-length\x020", b"\r\nx: y", b"\n", b"*", b"//", b"CONNECT", b":protocol")),
    Target("client-hello", "TLS hellos, against OpenSSL", client_hello, HELLOS, HELLO_TOKENS),
    Target("hello-guard", "hellos in tunnels of raw bytes, against OpenSSL", hello_guard,
           [bytes([255]) + hello for hello in HELLOS], HELLO_TOKENS),
    Target("dns", "DNS queries", dns_query, QUERIES, (b"\xc0\x0c", b"\x3f", b"\x00\x00\x29")),
    Target("child-bytes", "socket addresses and packets of the command", child_bytes, PACKETS),
)  # fmt: skip
