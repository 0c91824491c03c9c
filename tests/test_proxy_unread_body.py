"""A body that the server leaves unread must not become a request that no record tells of."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from origin import serving
from running_proxy import http, running
from transparent_cage import cage, get

LOOPBACK = ["127.0.0.1:*"]
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def python_server():
    """Python's own server, which reads no body for these methods; its port and what it ran."""
    ran: list[str] = []

    class Handler(BaseHTTPRequestHandler):
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
        daemon_threads = False  # so that leaving the block waits for them

        def handle_error(self, *_: object) -> None:  # resets of ours
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], ran
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_is_not_run_as_a_request(method, chunked):
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(HIDDEN)}"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN) if chunked else HIDDEN
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


async def test_on_the_transparent_network_too():
    with python_server() as (port, ran):
        async with serving() as origin:
            origin.port = port
            request = get("allowed.test", "/one", f"Content-Length: {len(HIDDEN)}") + HIDDEN
            async with cage(origin=origin) as at:
                answer = await at.ask("allowed.test", request)
                assert answer is not None
                assert answer.body == b"ok"
                await at.events(1)
    assert ran == ["/one"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_where_a_body_is_usual_the_connection_stays(method):
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


async def test_a_connection_that_was_to_end_serves_nothing_more():
    """Also where the server does not say so itself."""
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
