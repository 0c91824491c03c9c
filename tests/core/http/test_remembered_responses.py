"""Response heads that are remembered: the outcome is the same as without, and no secret is kept."""

from __future__ import annotations

from itertools import product

import pytest

from nono_trio.core.http import field_block
from nono_trio.core.http.body import LengthBody
from nono_trio.core.http.field_block import MAX_REMEMBERED, MEMORY, MOST_FIELDS
from nono_trio.core.http.http1 import CLOSE, MessageWriter
from nono_trio.core.http.response_head import BadResponse, parse_response, responses

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
STATUS_LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304", b"HTTP/1.1 100 Go",
    b"HTTP/1.1 101 Switching", b"HTTP/1.1 404 Not \xe9", b"HTTP/1.1 999 ", b"HTTP/2.0 200 OK",
    b"HTTP/1.1 20 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 200 OK\n", b"",
]  # fmt: skip
LINES = [
    b"Content-Length: 5", b"content-length:5", b"Content-Length: 05", b"Content-Length: 5, 5",
    b"Content-Length : 5", b"Content-Length: 0", b"Transfer-Encoding: chunked",
    b"TRANSFER-ENCODING:\tChunked ", b"Transfer-Encoding: identity", b"Transfer_Encoding: chunked",
    b" folded", b"X: y\nContent-Length: 7", b"X: \x00", b"X: \xff", b"X:", b"X", b": x", b"X: y\r",
    b"Connection: close", b"Connection: X, Date", b"connection:keep-alive,CLOSE", b"Keep-Alive: x",
    b"Date: today", b"Server: s ", b"Vary:  a", b"Set-Cookie: a", b"Trailer: X", b"Upgrade: h2c",
    b"Proxy-Authenticate: Basic", b"proxy-x: y", b"Age: 1",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
]  # fmt: skip
BLOCKS = [
    b"",
    *(one + b"\r\n" for one in LINES),
    *map(b"%b\r\n%b\r\n".__mod__, product(LINES, LINES)),
]
HEADS = [b"%b\r\n%b\r\n" % head for head in product(STATUS_LINES[:6], BLOCKS)]
HEADS += [b"%b\r\n%b\r\n" % head for head in product(STATUS_LINES[6:], BLOCKS[:40])]


@pytest.fixture(autouse=True)
def nothing_remembered():
    responses.forget_all()
    yield
    responses.forget_all()


def outcome(raw: bytes, method: str = "GET") -> tuple[object, ...]:
    """All that follows from a head: the refusal, or its framing and the bytes for the client."""
    try:
        head = parse_response(raw, method, KEY)
    except BadResponse as bad:
        return (bad.reason,)
    body = head.body
    size = body.read(b"x" * 9) if isinstance(body, LengthBody) else ()
    writer = MessageWriter(chunked=not size, connection=(CLOSE,))
    about = head.status, head.reason, [*head.fields], head.keep_alive, head.is_interim
    return *about, type(body), body.done, size, writer.write(head.started(1))


def test_a_head_has_the_same_outcome_whether_it_is_remembered_or_not(monkeypatch):
    with monkeypatch.context() as off:
        off.setattr(field_block, "MAX_REMEMBERED", -1)
        without = [outcome(raw) for raw in HEADS]
        assert [*responses] == []
    remembered = 0
    for raw, expected in zip(HEADS, without, strict=True):
        for _ in range(3):  # unseen, seen once, remembered
            assert outcome(raw) == expected
        remembered += responses.find(raw.partition(b"\r\n")[2]) is not None
    assert remembered > 100
    assert sum(len(one) == 1 for one in without) > 1000  # refused
    for raw in HEADS[:400]:
        assert outcome(raw, "HEAD")[:5] == outcome(raw)[:5]


@pytest.mark.parametrize(
    "line", [b"Set-Cookie: s3cr3t", b"X-Token: s3cr3t", b"Location: /?k=s3cr3t", b"ETag: s3cr3t",
             b"WWW-Authenticate: s3cr3t", b"s3cr3t: x", b"Content-Length: 1\r\nContent-Length: 1"],
)  # fmt: skip
def test_no_head_with_a_secret_or_a_fault_is_remembered(line):
    for _ in range(3):
        outcome(b"HTTP/1.1 200 OK\r\nServer: x\r\n" + line + b"\r\n\r\n")
    assert [*responses] == []


def test_what_is_remembered_is_bounded_and_came_twice():
    for number in range(3 * MEMORY):
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number
        outcome(raw)
        assert responses.find(raw.partition(b"\r\n")[2]) is None
        outcome(raw)
        assert responses.find(raw.partition(b"\r\n")[2]) is not None
        assert len([*responses]) <= MEMORY
    responses.forget_all()
    for _ in range(3):
        outcome(b"HTTP/1.1 200 OK\r\nServer: " + b"x" * MAX_REMEMBERED + b"\r\n\r\n")
        outcome(b"HTTP/1.1 200 OK\r\n" + b"Age:\r\n" * (MOST_FIELDS + 1) + b"\r\n")
    assert [*responses] == []
    for _ in range(2):
        outcome(b"HTTP/1.1 200 OK\r\n" + b"Age:\r\n" * MOST_FIELDS + b"\r\n")
    assert len([*responses]) == 1
