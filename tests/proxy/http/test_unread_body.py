"""A body that the server does not read must not become a request without a record."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from origin import serving
from running_proxy import http, running, until
from transparent_cage import cage, get

from nono_trio.core.http.hidden_request import HiddenRequest, HiddenRequestLine

LOOPBACK = ["127.0.0.1:*"]
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def python_server():
    """Python's own server, which reads no body for these methods; its port and what it ran."""
    ran: list[str] = []

    class HttpConnection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            ran.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"ok")

        do_GET = do_HEAD = do_DELETE = do_OPTIONS = do_PURGE = answer

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that the end of the block waits for them

        def handle_error(self, *_: object) -> None:  # resets of ours
            pass

    with Server(("127.0.0.1", 0), HttpConnection) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], ran
        finally:
            server.shutdown()
            thread.join()


UNUSUAL = ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"]


def framed(body: bytes, *, chunked: bool) -> tuple[str, bytes]:
    if chunked:
        return "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return f"Content-Length: {len(body)}", body


@pytest.mark.parametrize("method", UNUSUAL)
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_unread_body_is_not_run_as_a_request(method, chunked):
    """It has other bytes before the request: the connection ends with the response."""
    framing, body = framed(b'{"": ""}\r\n' + HIDDEN, chunked=chunked)
    with python_server() as (port, ran):
        async with running(LOOPBACK) as proxy, proxy.client() as wire:
            url = f"http://127.0.0.1:{port}"
            await wire.send(http(method, f"{url}/one", framing, body=body))
            answer = await wire.answer(method)
            assert answer is not None
            assert answer.status == 200
            answer = await wire.exchange(http("GET", f"{url}/two"))
            assert answer is not None
            assert answer.body == b"ok"
            assert len(proxy.recorder.events) == 2
    assert ran == ["/one", "/two"]


@pytest.mark.parametrize("method", UNUSUAL)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "body",
    [HIDDEN, b"\r\n" + HIDDEN, b" \x0b" + HIDDEN, b"GET /hidden\r\n",
     b"GET\x1c/hidden HTTP/1.1\r\n\r\n", b"\n" * 1000 + HIDDEN],
    ids=["request", "line", "blanks", "old", "separator", "many"],
)  # fmt: skip
async def test_a_body_that_begins_as_a_request_is_not_sent(method, chunked, body):
    """A reverse proxy keeps its own connections to such a server."""
    framing, raw = framed(body, chunked=chunked)
    with python_server() as (port, ran):
        async with running(LOOPBACK) as proxy:
            url = f"http://127.0.0.1:{port}/one"
            answer = await proxy.ask(http(method, url, framing, body=raw), method)
            assert answer is not None
            assert answer.status == 400
            [event] = proxy.recorder.events
            assert (event.decision, event.target) == ("deny", "127.0.0.1")
            assert "begins as a request" in str(event.reason)
    assert ran == []


async def test_a_body_that_comes_byte_by_byte_ends_before_it_is_a_request():
    seen = bytearray()

    async def takes_all(stream: trio.SocketStream) -> None:
        while more := await stream.receive_some(1000):
            seen.extend(more)

    async with serving(takes_all) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/one"
        await wire.send(http("GET", url, f"Content-Length: {len(HIDDEN)}"))
        for byte in HIDDEN[:4]:
            await wire.send(bytes([byte]))
            await trio.sleep(0.01)
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 400
        await until(origin.closed.is_set)
        assert [event.decision for event in proxy.recorder.events] == ["allow", "deny"]
    assert seen.endswith(b"\r\n\r\nGET")


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        (b"", False), (b"{}", False), (b'{"a": 1}', False), (b"<?xml version=", False),
        (b"a=b&c=d e", False), (b"word", False), (b"x" * 65 + b" y", False),
        (b"\xff\xfe GET ", False), (b"GET /", True), (b"\r\n\r\nGET /", True),
        (b"x" * 64 + b" y", True), (b"PRI * HTTP/2.0", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_beginnings_of_requests_are_detected(body, begins, size):
    hidden = HiddenRequest()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert any(hidden.is_in(piece) for piece in pieces) is begins


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 10_000])
@pytest.mark.parametrize("method", [b"A", b"GET", b"x" * 64])
def test_no_number_of_blanks_hides_the_beginning_of_a_request(method, size):
    for blanks in range(300):
        hidden, body = HiddenRequest(), b" " * blanks + method + b" /hidden HTTP/1.1\r\n"
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        assert any(hidden.is_in(piece) for piece in pieces), blanks


@given(
    st.lists(
        st.sampled_from([b" ", b"\r\n", b"\t" * 60, b"x" * 63, b"GET", b"/", b"{"]), max_size=9
    ),
    st.integers(1, 200),
)
def test_the_verdict_about_a_beginning_does_not_depend_on_the_pieces(parts, size):
    body = b"".join(parts)
    word = body.lstrip(b" \r\n\t")
    letters = len(word) - len(word.lstrip(b"xGET"))
    begins = 0 < letters <= 64 and word[letters : letters + 1] in (b" ", b"\r", b"\t")
    hidden = HiddenRequest()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert any(hidden.is_in(piece) for piece in pieces) is begins


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        (b"", False), (b"{}", False), (b"word", False), (b"GET /hidden\r\n", False),
        (b"a text of HTTP/1", True), (b"a text\nof HTTP/1.1", False),
        (b"x" * 65 + b" HTTP/1.1", False),
        (b'{"a": "GET / HTTP/1.1"}', False), (b"GET /HTTP/1.1", False), (HIDDEN, True),
        (b"\r\n \r\n" + HIDDEN, True), (b"GET\x1c/" + b"a" * 5000 + b"\thttp/1.1\n", True),
        (b"PRI * HTTP/2.0", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_request_lines_are_detected(body, is_one, size):
    hidden = HiddenRequestLine()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert any(hidden.is_in(piece) for piece in pieces) is is_one


@pytest.mark.parametrize("is_judged", [True, False])
@pytest.mark.parametrize("chunked", [False, True])
async def test_no_body_hides_a_request_where_rules_judge(is_judged, chunked):
    rules = ["allow GET,POST http://127.0.0.1:{port}/sink"] if is_judged else []
    async with serving() as origin:
        rules = [one.format(port=origin.port) for one in rules]
        async with running(LOOPBACK, endpoints=rules) as proxy:
            url = f"http://127.0.0.1:{origin.port}/sink"
            framing, raw = framed(HIDDEN, chunked=chunked)
            answer = await proxy.ask(http("POST", url, framing, body=raw))
            assert answer is not None
            assert answer.status == (400 if is_judged else 200)
            events = [(one.decision, one.method) for one in proxy.recorder.events]
            assert events == [("allow", "POST"), ("deny", "POST")][: 1 + is_judged]
            assert (b"/hidden" in bytes(origin.seen)) is not is_judged


async def test_on_the_transparent_network_too():
    with python_server() as (port, ran):
        async with serving() as origin:
            origin.port = port
            body = b"{}\r\n" + HIDDEN
            request = get("allowed.test", "/one", f"Content-Length: {len(body)}") + body
            hidden = get("allowed.test", "/two", f"Content-Length: {len(HIDDEN)}") + HIDDEN
            async with cage(origin=origin) as at:
                answer = await at.ask("allowed.test", request)
                assert answer is not None
                assert answer.body == b"ok"
                answer = await at.ask("allowed.test", hidden)
                assert answer is not None
                assert answer.status == 400
                await at.events(2)
    assert ran == ["/one"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_a_usual_body_keeps_the_connection(method):
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        base = f"http://127.0.0.1:{origin.port}"
        for request in (
            http(method, f"{base}/sink", "Content-Length: 1", body=b"x"),
            http("GET", f"{base}/small"),
            http("DELETE", f"{base}/small", "Content-Length: 0"),
        ):
            answer = await wire.exchange(request)
            assert answer is not None
            assert answer.status == 200
        assert b"connection:" not in bytes(origin.seen).lower()


async def test_a_connection_with_its_last_request_gets_no_other():
    """Also if the server keeps the connection open."""
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        base = f"http://127.0.0.1:{origin.port}"
        for request in (
            http("DELETE", f"{base}/sink", "Content-Length: 1", body=b"x"),
            http("GET", f"{base}/small"),
        ):
            answer = await wire.exchange(request)
            assert answer is not None
            assert answer.status == 200
        assert origin.connections == 2
        assert bytes(origin.seen).count(b"Connection: close\r\n") == 1
