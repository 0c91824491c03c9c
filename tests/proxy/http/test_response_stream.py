"""Response heads: h11 reads an accepted head the same way, and all others are refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.body import EndlessBody, LengthBody
from nono_trio.core.http.chunked import ChunkedBody
from nono_trio.core.http.http1 import MessageWriter
from nono_trio.core.http.message import HTTP1_STREAM
from nono_trio.core.http.response_head import (
    MAX_RESPONSE_HEAD,
    BadResponse,
    ResponseHead,
    parse_response,
    response_end,
)

GOOD = [
    (b"HTTP/1.1 200 OK\r\n\r\n", EndlessBody),
    (b"HTTP/1.1 200\r\n\r\n", EndlessBody),
    (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", LengthBody),
    (b"HTTP/1.0 200 OK\r\nContent-Length:5\r\n\r\n", LengthBody),
    (b"HTTP/1.1 404 Not \xe9\r\nTRANSFER-ENCODING:\tChunked \r\n\r\n", ChunkedBody),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", LengthBody),
    (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nLink: </a>\r\n\r\n", LengthBody),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", LengthBody),
    (b"HTTP/1.1 999 Odd\r\nX:\r\nY: \xff\r\n\r\n", EndlessBody),
]


def written(response: ResponseHead, *, chunked: bool = False) -> bytes:
    """The head as the client gets it."""
    return MessageWriter(chunked=chunked).write(response.started(HTTP1_STREAM))


@pytest.mark.parametrize(("raw", "body"), GOOD)
def test_good_heads(raw, body):
    response = parse_response(raw, "GET")
    assert type(response.body) is body
    assert response_end(raw + b"body") == len(raw)
    for end in range(len(raw)):
        assert response_end(raw[:end]) == -1
        with pytest.raises(BadResponse):
            parse_response(raw[:end], "GET")
    assert b"content-length" not in written(response).lower() or response.status not in (103, 204)


def test_head_has_no_body_but_its_framing_is_still_checked():
    assert parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD").body.done
    with pytest.raises(BadResponse):
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "HEAD")


@pytest.mark.parametrize(
    "raw",
    [b"\n", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\r\nA: b\n", b"HTTP/1.1 200 OK\r\n\n",
     b"HTTP/1.1 200 OK\r\nA: b\r\n\n", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"],
)  # fmt: skip
def test_a_bare_line_feed_is_refused_as_soon_as_it_is_there(raw):
    for end in range(raw.index(b"\n")):
        assert response_end(raw[:end]) == -1
    with pytest.raises(BadResponse):
        response_end(raw)


def test_a_long_head_is_refused_before_it_ends():
    assert response_end(b"H" * (MAX_RESPONSE_HEAD - 1)) == -1
    with pytest.raises(BadResponse):
        response_end(b"H" * MAX_RESPONSE_HEAD)


@pytest.mark.parametrize(
    ("connection", "keep_alive"),
    [(b"", True), (b"keep-alive", True), (b"x, Close", False), (b"closed", True)],
)
def test_when_the_upstream_stays_open(connection, keep_alive):
    raw = b"HTTP/1.1 200 OK\r\nConnection: " + connection + b"\r\n\r\n"
    assert parse_response(raw, "GET").keep_alive is keep_alive
    assert not parse_response(raw.replace(b"HTTP/1.1", b"HTTP/1.0"), "GET").keep_alive


def test_hop_by_hop_fields_stay_here():
    raw = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop, Set-Cookie\r\nX-Hop: 1\r\nKeep-Alive: x\r\n"
        b"Transfer-Encoding: chunked\r\nTrailer: x\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\nX-Kept: Yes\r\n\r\n"
    )
    assert written(parse_response(raw, "GET"), chunked=True) == (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Kept: Yes\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )


lines = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 5",
            b"Content-Length: 05",
            b"content-length:5",
            b"Content-Length: 5, 5",
            b"Content-Length : 5",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: identity",
            b"Transfer_Encoding: chunked",
            b" folded",
            b"X: y\nContent-Length: 7",
            b"X: \x00",
            b"X: \xff",
            b"Connection: close",
            b"X",
            b": x",
        ]
    ),
    max_size=3,
)
statuses = st.sampled_from([b"200 OK", b"204 No", b"304 No", b"100 Continue", b"20 OK", b"200OK"])


@given(statuses, lines, st.sampled_from([b"1.0", b"1.1", b"2.0"]), st.sampled_from(["GET", "HEAD"]))
def test_h11_reads_an_accepted_head_the_same_way(status, fields, version, method):
    raw = b"\r\n".join([b"HTTP/%b %b" % (version, status), *fields, b"", b""])
    try:
        ours = parse_response(raw, method)
    except BadResponse:
        return
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    theirs = connection.next_event()
    assert isinstance(theirs, h11.InformationalResponse | h11.Response)
    assert theirs.status_code == ours.status
    assert [name.lower() for name, _ in ours.fields] == [
        name
        for name, _ in theirs.headers
        if ours.status not in (100, 204) or name != b"content-length"
    ]
    if isinstance(theirs, h11.Response):
        assert ours.body.done == isinstance(connection.next_event(), h11.EndOfMessage)
