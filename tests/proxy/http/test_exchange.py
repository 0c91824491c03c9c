"""Plain HTTP through a real proxy: streaming, framing, keep-alive."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import h11
import pytest
import trio
from origin import says, serving
from running_proxy import AUTH, connect, http, running, until

from nono_trio.steps import stepwise
from nono_trio.testing import FakeResolver, LoopbackDialler, MemoryRecorder

if TYPE_CHECKING:
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.processes import RecordOrigin

LOOPBACK = ["127.0.0.1:*"]


async def test_a_request_is_made_anew():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/small?secret=1&x"
        fields = [
            "X-Kept: Yes",
            "Connection: keep-alive, X-Hop, Host, Authorization",
            "X-Hop: gone",
            "Authorization: Bearer origin",
            "Proxy-Connection: keep-alive",
            "Keep-Alive: timeout=5",
            "TE: gzip",
            "Trailer: X-Sum",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABk",
        ]
        answer = await wire.exchange(http("GET", url, *fields).replace(b"Host: 127", b"Host: 128"))
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["x-origin"] == "yes"
        assert (
            bytes(origin.seen)
            == (
                f"GET /small?secret=1&x HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n"
                "X-Kept: Yes\r\nAuthorization: Bearer origin\r\n\r\n"
            ).encode()
        )
        [event] = proxy.recorder.events
        assert (event.mode, event.method, event.status) == ("reverse", "GET", None)
        assert event.path == "/small?secret=[REDACTED]&[REDACTED]"
        assert (event.auth_mechanism, event.auth_outcome) == ("proxy_authorization", "succeeded")


async def test_one_connection_serves_many_requests_and_reuses_the_upstream():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        for _ in range(3):
            answer = await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/small"))
            assert answer is not None
            assert answer.body == b"ok"
        assert origin.connections == 1
        flows = await proxy.flows(3)
        assert [flow.sequence for flow in flows] == [0, 1, 2]


async def test_another_upstream_gets_a_connection_of_its_own():
    async with (
        serving() as one,
        serving() as two,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        for origin in (one, two, one):
            await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/small"))
        assert (one.connections, two.connections) == (2, 1)


async def test_an_upstream_that_closed_between_requests_is_dialled_again():
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with (
        serving(says(response)) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        for _ in range(5):
            answer = await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/"))
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"ok")


async def closes_on_a_second_request(stream: trio.SocketStream) -> None:
    assert await stream.receive_some(65536)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await stream.receive_some(65536)


async def test_a_safe_request_that_meets_a_closing_connection_goes_out_again():
    async with (
        serving(closes_on_a_second_request) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        for _ in range(3):
            answer = await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/"))
            assert answer is not None
            assert answer.body == b"ok"
        assert origin.connections == 3
        assert len(proxy.recorder.events) == 3


async def test_an_answer_that_nobody_asked_for_is_never_the_next_ones():
    asked, told = trio.Event(), trio.Event()

    async def says_more(stream: trio.SocketStream) -> None:
        assert await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await asked.wait()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        told.set()
        await stream.receive_some(65536)

    async with (
        serving(says_more) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        for number in range(1, 3):
            answer = await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/"))
            assert answer is not None
            assert (answer.body, origin.connections) == (b"ok", number)
            asked.set()
            await told.wait()


class SaysMoreAtARecord(MemoryRecorder):
    """Has the origin send `forged` while the second decision is recorded: no event of the kernel's
    is reported between that and the request."""

    forger: socket.socket | None = None

    @stepwise
    async def record(self, event: NetworkEvent, origin: RecordOrigin | None = None) -> int:
        if self.forger is not None and len(self.events) == 1:
            self.forger.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        return await super().record(event, origin)


async def test_an_answer_that_nobody_asked_for_is_not_that_of_a_pipelined_request():
    """The request came before these bytes, so that they are not reported before it."""
    recorder = SaysMoreAtARecord()

    async def answers(stream: trio.SocketStream) -> None:
        recorder.forger = recorder.forger or socket.socket(fileno=os.dup(stream.socket.fileno()))
        while await stream.receive_some(65536):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        serving(answers) as origin,
        running(LOOPBACK, recorder=recorder) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(2 * http("GET", f"http://127.0.0.1:{origin.port}/"))
        for _ in range(2):
            answer = await wire.answer()
            assert answer is not None
            assert answer.body == b"ok"
        assert (origin.connections, len(proxy.recorder.events)) == (2, 2)
    assert recorder.forger is not None
    recorder.forger.close()


async def test_any_other_request_never_meets_a_used_connection():
    async with (
        serving(closes_on_a_second_request) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        for _ in range(3):
            url = f"http://127.0.0.1:{origin.port}/"
            answer = await wire.exchange(http("POST", url, "Content-Length: 1", body=b"x"))
            assert answer is not None
            assert answer.body == b"ok"
        assert origin.connections == 3


async def test_pipelined_requests_are_answered_in_order():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        base = f"http://127.0.0.1:{origin.port}"
        post = http("POST", f"{base}/sink", "Content-Length: 5", body=b"12345")
        await wire.send(http("GET", f"{base}/bytes/7") + post + http("GET", f"{base}/chunked/3"))
        bodies = [(await wire.answer()).body for _ in range(3)]
        assert bodies == [b"0123456", b"5", b"0,1,2,"]


async def test_a_pipelined_request_needs_its_own_token():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        request = http("GET", f"http://127.0.0.1:{origin.port}/small")
        bare = request.replace(f"Proxy-Authorization: {AUTH}\r\n".encode(), b"")
        await wire.send(request + bare + request)
        assert [(await wire.answer()).status for _ in range(3)] == [200, 407, 200]
        assert len(origin.requests) == 2


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_a_chunked_upload_in_pieces(step):
    body = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n"
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/echo"
        request = http("POST", url, "Transfer-Encoding: chunked", body=body)
        for at in range(0, len(request), step):
            await wire.send(request[at : at + step])
            await trio.lowlevel.checkpoint()
        answer = await wire.answer("POST")
        assert answer is not None
        assert (answer.body, answer.complete) == (b"hello world", True)
        assert b";x=y" not in origin.seen
        assert b"X-Trailer: t\r\n" in origin.seen


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
async def test_bodies_with_a_length(size):
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        base = f"http://127.0.0.1:{origin.port}"
        body = b"x" * size
        answer = await wire.exchange(
            http("PUT", f"{base}/sink", f"Content-Length: {size}", body=body)
        )
        assert answer is not None
        assert answer.body == str(size).encode()
        answer = await wire.exchange(http("GET", f"{base}/bytes/{size}"))
        assert answer is not None
        assert len(answer.body) == size


@pytest.mark.parametrize("status", [204, 304, 404])
async def test_responses_without_a_body_leave_the_connection_usable(status):
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        base = f"http://127.0.0.1:{origin.port}"
        answer = await wire.exchange(http("GET", f"{base}/status/{status}"))
        assert answer is not None
        assert (answer.status, answer.body) == (status, b"")
        answer = await wire.exchange(http("GET", f"{base}/small"))
        assert answer is not None
        assert answer.body == b"ok"


async def test_head_has_the_length_and_no_body():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        base = f"http://127.0.0.1:{origin.port}"
        answer = await wire.exchange(http("HEAD", f"{base}/bytes/100"), "HEAD")
        assert answer is not None
        assert (answer.headers["content-length"], answer.body) == ("100", b"")
        answer = await wire.exchange(http("GET", f"{base}/small"))
        assert answer is not None
        assert answer.body == b"ok"


async def test_expect_is_answered_by_the_origin():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/sink"
        await wire.send(http("POST", url, "Content-Length: 4", "Expect: 100-continue"))
        assert (await wire.receive_exactly(12)) == b"HTTP/1.1 100"
        while b"\r\n\r\n" not in (await wire.receive()):
            pass
        await wire.send(b"body")
        answer = await wire.answer("POST")
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"4")


async def test_an_early_answer_is_passed_on_and_the_upload_dropped():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/early"
        await wire.send(http("POST", url, "Content-Length: 1000000", "Expect: 100-continue"))
        answer = await wire.answer("POST")
        assert answer is not None
        assert (answer.status, answer.body) == (413, b"early")
        assert answer.headers["connection"] == "close"
        assert await wire.ends()


async def test_other_interim_responses_are_passed_on():
    behaviour = says(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    async with serving(behaviour) as origin, running(LOOPBACK) as proxy:
        request = http("GET", f"http://127.0.0.1:{origin.port}/")
        async with proxy.client() as wire:
            await wire.send(request)
            assert (await wire.receive()).startswith(b"HTTP/1.1 103")
        async with proxy.client() as wire:  # HTTP/1.0 does not know them
            await wire.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert (await wire.receive()).startswith(b"HTTP/1.1 200")


async def test_server_sent_events_are_sent_on_at_once():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/events"))
        seen = b""
        while b"data: one\n\n" not in seen:
            seen += await wire.receive()
        origin.released.set()
        while b"data: two\n\n" not in seen:
            seen += await wire.receive()


async def test_a_body_that_ends_with_the_connection():
    async with serving() as origin, running(LOOPBACK) as proxy:
        request = http("GET", f"http://127.0.0.1:{origin.port}/until-close")
        answer = await proxy.ask(request)
        assert answer is not None
        assert (answer.body, answer.complete) == (b"until the end", True)
        assert answer.headers["transfer-encoding"] == "chunked"
        async with proxy.client() as wire:
            await wire.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await wire.answer()
            assert answer is not None
            assert answer.body == b"until the end"
            assert await wire.ends()


async def test_a_client_that_half_closes_still_gets_its_answer():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/bytes/1000000"))
        await wire.end()
        answer = await wire.answer()
        assert answer is not None
        assert len(answer.body) == 1_000_000
        assert await wire.ends()


async def test_connection_close_closes_the_connection():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/small"
        answer = await wire.exchange(http("GET", url, "Connection: close"))
        assert answer is not None
        assert answer.headers["connection"] == "close"
        assert await wire.ends()


async def test_uploads_and_downloads_run_at_the_same_time():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/echo"
        await wire.send(http("POST", url, "Transfer-Encoding: chunked"))
        parser = h11.Connection(h11.CLIENT)
        parser.send(
            h11.Request(
                method="POST", target="/", headers=[("Host", "x"), ("Transfer-Encoding", "chunked")]
            )
        )
        for word in (b"one", b"two"):
            await wire.send(b"3\r\n" + word + b"\r\n")
            got = b""
            while got != word:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(await wire.receive())
                elif isinstance(event, h11.Data):
                    got += event.data
        await wire.send(b"0\r\n\r\n")
        assert (await wire.receive_exactly(5)) == b"0\r\n\r\n"


@pytest.mark.parametrize("port", [80, 22])
async def test_a_connect_closes_the_connection_of_the_request_before_it(port):
    resolver = FakeResolver({"allowed.test": [["192.0.2.1"]]})
    async with serving() as origin:
        allow, dialler = ["allowed.test", "allowed.test:22"], LoopbackDialler(origin.port)
        async with running(allow, resolver=resolver, dialler=dialler) as proxy:
            async with proxy.client() as wire:
                await wire.exchange(http("GET", "http://allowed.test/small"))
                assert origin.open == 1
                answer = await wire.exchange(connect(f"allowed.test:{port}"), "CONNECT")
                assert answer is not None
                assert answer.status == 200
                await until(lambda: (origin.connections, origin.open) == (2, 1))
            await until(lambda: origin.open == 0)
