"""Trailers through the proxy, both ways: they arrive, or the message is refused; never in part."""

from __future__ import annotations

import pytest
from looked_into import HOST, looking_into
from origin import says, serving
from running_proxy import http, running
from transparent_cage import get
from websocket_peer import FIELDS, agreeing, head_of

LOOPBACK = ["127.0.0.1:*"]
CHUNKED = "Transfer-Encoding: chunked"
BODY = b"3\r\nabc\r\n0\r\n"


@pytest.mark.parametrize("step", [1, 1000])
async def test_those_of_a_request_arrive_with_what_announces_them(step) -> None:
    fields = (CHUNKED, "Trailer: X-Sum, Content-Length", "TE: trailers, gzip", "Connection: X-Hop")
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/sink"
        request = http("POST", url, *fields, body=BODY + b"X-Sum: 1\r\nX-Hop: 2\r\n\r\n")
        for at in range(0, len(request), step):
            await wire.send(request[at : at + step])
        assert (await wire.answer("POST")).body == b"3"
        head, _, body = bytes(origin.seen).partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[2:] == [
            b"Transfer-Encoding: chunked", b"Connection: TE", b"TE: trailers", b"Trailer: X-Sum",
        ]  # fmt: skip
        assert body.endswith(b"0\r\nX-Sum: 1\r\n\r\n")
        assert (await wire.exchange(http("GET", url))).body == b"0"  # it stays open
        assert origin.connections == 1


RULES = (f"allow * https://{HOST}/ok/**",)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    ("trailer", "reason"),
    [
        (b"Content_Length: 5", "must not change framing"),
        (b"Authorization: x", "must not change framing"),
        (b"X-HTTP-Method-Override: DELETE", "may replace the method or path"),
        (b"x.original.url: /no", "may replace the method or path"),
        (b"GET: /no HTTP/1.1", "may be read as the next request"),
    ],
)
async def test_those_that_could_change_a_request_are_refused(trailer, reason, early) -> None:
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        head = get(HOST, "/ok/a", CHUNKED).replace(b"GET", b"POST")
        rest = BODY + b"X-Sum: 1\r\n" + trailer + b"\r\n\r\n"
        if early:
            await wire.send(head + rest)
        else:
            await wire.send(head + rest[:4])
            await wire.send(rest[4:])
        answer = await wire.answer("POST")
        assert answer.status == 400
        assert reason in answer.body.decode()
        assert await wire.ends()
        assert reason in at.proxy.recorder.events[-1].reason
        assert at.origin.bodies == []  # none was whole
        assert trailer.partition(b":")[0] not in at.origin.seen


async def test_those_of_a_request_arrive_under_tls_too() -> None:
    async with looking_into(*RULES) as at, at.tunnel() as wire:
        head = get(HOST, "/ok/a", CHUNKED, "Trailer: X-Sum").replace(b"GET", b"POST")
        assert (await wire.exchange(head + BODY + b"X-Sum: 1\r\n\r\n", "POST")).status == 200
        assert b"\r\nTrailer: X-Sum\r\n" in at.origin.seen
        assert at.origin.seen.endswith(b"0\r\nX-Sum: 1\r\n\r\n")


ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: X-Hop\r\n"


@pytest.mark.parametrize("cut", [0, 1, 5, 30])
async def test_those_of_a_response_arrive(cut) -> None:
    whole = ANSWER + b"\r\n" + BODY + b"X-Sum: 1\r\nX-Hop: 2\r\nServer-Timing: a\r\n\r\n"
    pieces = (whole[: len(whole) - cut], whole[len(whole) - cut :])
    async with serving(says(*pieces)) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/"))
        expected = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            + BODY + b"X-Sum: 1\r\nServer-Timing: a\r\n\r\n"
        )  # fmt: skip
        assert await wire.receive_exactly(len(expected)) == expected
        assert wire.unread == b""


@pytest.mark.parametrize("trailer", [b"Set-Cookie: a", b"Transfer-Encoding: x", b"A : b"])
async def test_a_response_with_bad_ones_is_cut_before_its_end(trailer) -> None:
    behaviour = says(ANSWER + b"\r\n3\r\nabc\r\n", b"0\r\n" + trailer + b"\r\n\r\n")
    async with serving(behaviour) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        answer = await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/"))
        assert answer.status == 502 or not answer.complete


@pytest.mark.parametrize(("method", "version"), [("GET", b"HTTP/1.0"), ("HEAD", b"HTTP/1.1")])
async def test_without_a_chunked_body_there_are_none(method, version) -> None:
    body = b"" if method == "HEAD" else BODY + b"X-Sum: 1\r\n\r\n"
    async with (
        serving(says(ANSWER + b"\r\n" + body)) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        request = http(method, f"http://127.0.0.1:{origin.port}/", "TE: trailers")
        await wire.send(request.replace(b"HTTP/1.1", version))
        head = await head_of(wire)
        assert b"Trailer" not in head
        if method == "GET":
            assert await wire.receive_exactly(3) == b"abc"
            assert await wire.ends()


async def test_a_websocket_handshake_asks_for_none() -> None:
    server = agreeing()
    async with serving(server) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/"
        await wire.send(http("GET", url, *FIELDS, "TE: trailers"))
        assert (await head_of(wire)).startswith(b"HTTP/1.1 101 ")
        assert b"\r\nTE:" not in server.seen
