"""Trailers of chunked bodies: what is read, what is refused, what a head says about them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.chunked import MAX_CHUNK_LINE, BadBody, ChunkedBody
from nono_trio.core.http.header_fields import end_to_end_trailers
from nono_trio.core.http.hidden_request import hides_request
from nono_trio.core.http.http1 import MessageWriter
from nono_trio.core.http.http2_head import FieldFault, check_trailers
from nono_trio.core.http.message import MessageEnded
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.http.trailers import (
    MAX_TRAILER_FIELDS,
    MAX_TRAILERS,
    announced,
    is_forbidden,
    takes_trailers,
)

GOOD = {
    "none": ((), b""),
    "one": (((b"X-Sum", b"1"),), b"X-Sum: 1\r\n"),
    "many of a name": (((b"a", b"1"), (b"A", b"2")), b"a:1\r\nA:\t2 \r\n"),
    "empty": (((b"A", b""),), b"A:\r\n"),
    "other characters": (((b"!#$%&'*+.^_`|~-", b"\xff : x"),), b"!#$%&'*+.^_`|~-: \xff : x\r\n"),
    "status": (
        ((b"grpc-status", b"0"), (b"Server-Timing", b"a;dur=1")),
        b"grpc-status: 0\r\nServer-Timing: a;dur=1\r\n",
    ),
}
FORBIDDEN = b"""
    connection content-length http2-settings keep-alive te trailer transfer-encoding upgrade host
    authorization cookie set-cookie www-authenticate proxy-authorization proxy-x
    cache-control expect max-forwards pragma range
    if-match if-modified-since if-none-match if-range if-unmodified-since
    content-encoding content-range content-type
"""
STEPS = [1, 2, 3, 7, 1 << 20]


def read(wire: bytes, step: int) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], int]:
    """The data of a body, its trailers, and how much it took of `wire`."""
    body, at, data = ChunkedBody(), 0, b""
    while not body.done:
        assert body.trailers == ()  # not before the end
        piece, taken = body.read(wire[at : at + step])
        data, at = data + piece, at + taken
    return data, body.trailers, at


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("expected", "lines"), GOOD.values(), ids=GOOD.keys())
def test_they_are_read_however_they_come(expected, lines, step) -> None:
    wire = b"2\r\nab\r\n0\r\n" + lines + b"\r\n"
    for behind in (b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"X: y\r\n\r\n"):
        assert read(wire + behind, step) == (b"ab", expected, len(wire))


@pytest.mark.parametrize("lines", [lines for _, lines in GOOD.values()], ids=GOOD.keys())
def test_no_prefix_is_an_end(lines) -> None:
    wire = b"0\r\n" + lines + b"\r\n"
    for end in range(len(wire)):
        body = ChunkedBody()
        assert body.read(wire[:end])[1] == end
        assert not body.done


def spellings(name: bytes) -> set[bytes]:
    return {name, name.upper(), name.title(), name.replace(b"-", b"_"), name.replace(b"-", b"~")}


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", FORBIDDEN.split(), ids=bytes.decode)
def test_a_name_that_decides_about_the_message_is_refused(name, step) -> None:
    for spelled in spellings(name):
        assert is_forbidden(spelled)
        with pytest.raises(BadBody, match="must not change framing, routing or authentication"):
            read(b"0\r\nX-Good: 1\r\n" + spelled + b": 1\r\n\r\n", step)
    with pytest.raises(FieldFault):
        check_trailers([(b"x-good", b"1"), (name, b"trailers")])


@pytest.mark.parametrize("name", [b"x-host", b"hosts", b"etag", b"grpc-status", b"x-proxy-a"])
def test_other_names_pass(name) -> None:
    assert not is_forbidden(name)
    check_trailers([(name, b"1")])


def test_their_number_and_their_bytes_are_bounded() -> None:
    line = b"A: b\r\n"
    assert len(read(b"0\r\n" + line * MAX_TRAILER_FIELDS + b"\r\n", 1 << 20)[1]) == 64
    with pytest.raises(BadBody, match="more than 64 trailers"):
        read(b"0\r\n" + line * (MAX_TRAILER_FIELDS + 1), 1 << 20)
    check_trailers([(b"a", b"b")] * MAX_TRAILER_FIELDS)
    with pytest.raises(FieldFault, match="more than 64 trailers"):
        check_trailers([(b"a", b"b")] * (MAX_TRAILER_FIELDS + 1))
    longest = b"A:" + b"b" * (MAX_CHUNK_LINE - 4) + b"\r\n"
    assert len(read(b"0\r\n" + longest * 8 + b"\r\n", 1 << 20)[1]) == MAX_TRAILERS // len(longest)
    with pytest.raises(BadBody, match="longer than 8192 bytes"):
        read(b"0\r\n" + longest * 8 + line, 1 << 20)
    with pytest.raises(BadBody, match="longer than 1024 bytes"):
        read(b"0\r\nb" + longest, 1 << 20)


names = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True).map(str.encode)
values = st.from_regex(r"[!-~]([\t -~]{0,20}[!-~])?", fullmatch=True).map(str.encode)


@given(st.lists(st.tuples(names, values), max_size=6), st.integers(1, 40))
def test_what_is_written_is_read_again(fields, step) -> None:
    fields = tuple(field for field in fields if not is_forbidden(field[0]))
    wire = MessageWriter(chunked=True).write(MessageEnded(1, fields))
    assert read(wire + b"more", step) == (b"", fields, len(wire))
    assert MessageWriter().write(MessageEnded(1, fields)) == b""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"X-Sum", b"X-Sum"),
        (b" a ,\tb,,c ", b"a, b, c"),
        (b"X-Sum, Content-Length, transfer_encoding, Proxy-A", b"X-Sum"),
        (b"a b, c", b"c"),
        (b"a:b, \xff", None),
        (b"Host", None),
        (b"", None),
    ],
)
def test_the_trailer_field_names_what_may_follow(value, expected) -> None:
    found = announced([(b"X", b"y"), (b"tRailer", value)])
    assert found == (() if expected is None else ((b"Trailer", expected),))
    assert announced([(b"X-Trailer", value)]) == ()


def test_two_trailer_fields_become_one() -> None:
    assert announced([(b"trailer", b"a"), (b"Trailer", b"b")]) == ((b"Trailer", b"a, b"),)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"TE: trailers", True), (b"te: deflate;q=0.5,\tTrailers", True),
        (b"TE: trailers;q=0", False),
        (b"TE: gzip", False), (b"X-TE: trailers", False), (b"TE:", False),
    ],
)  # fmt: skip
def test_who_takes_trailers(field, expected) -> None:
    head = b"GET / HTTP/1.%d\r\nHost: a\r\n" + field + b"\r\n\r\n"
    assert takes_trailers(parse_head(head % 1)) is expected
    assert takes_trailers(parse_head(head % 0)) is False


def test_a_trailer_that_connection_names_stays_here() -> None:
    fields = [(b"Connection", b"close, X-Hop"), (b"X-Other", b"1")]
    assert end_to_end_trailers(fields, ((b"x-hop", b"1"), (b"x-b", b"2"))) == ((b"x-b", b"2"),)
    assert end_to_end_trailers(fields, ()) == ()


@pytest.mark.parametrize("value", [b"/x HTTP/1.1", b"/x\x0bHTTP/1", b"HTTP/1.1", b"/ http/1.0 x"])
def test_a_value_that_ends_a_request_line(value) -> None:
    assert hides_request(value)


@pytest.mark.parametrize("value", [b"", b"1", b"see https://a.test/", b"XHTTP/1.1", b"HTTP/x"])
def test_a_value_that_ends_none(value) -> None:
    assert not hides_request(value)
