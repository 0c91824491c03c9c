"""Plain HTTP through a real proxy, when a peer lies, leaves or goes silent in the middle of it."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace
from origin import says, serving
from running_proxy import QUICK, http, running, until

LOOPBACK = ["127.0.0.1:*"]


TRUNCATED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npart",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
]


@pytest.mark.parametrize("response", TRUNCATED)
async def test_a_truncated_response_is_truncated_for_the_client(response):
    async with (
        serving(says(response)) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/"))
        answer = await wire.answer()
        assert answer is not None
        assert (answer.status, answer.body, answer.complete) == (200, b"part", False)
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "upstream"
        assert len(proxy.recorder.events) == 1


async def test_a_truncated_chunked_response_resets_an_old_client():
    async with (
        serving(says(TRUNCATED[2])) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        request = http("GET", f"http://127.0.0.1:{origin.port}/")
        await wire.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        with pytest.raises(trio.BrokenResourceError):
            await wire.receive_exactly(1 << 20)


FAULTY = {
    "nothing": b"",
    "not HTTP": b"220 ftp.example.com\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    "length list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "gzip coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "hidden field": b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "folded field": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
    "endless interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100,
    "version": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("response", FAULTY.values(), ids=FAULTY.keys())
async def test_a_response_that_can_be_read_in_two_ways_is_a_502(response):
    async with (
        serving(says(response)) as origin,
        running(LOOPBACK) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/"))
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 502
        assert b"upstream" in answer.body
        assert await wire.ends()
        first, second = proxy.recorder.events
        assert (first.decision, second.decision) == ("allow", "deny")
        assert second.denial_category == "upstream_connect_failed"
        assert (second.reason or "").encode() in answer.body


async def test_surplus_bytes_of_an_upstream_never_answer_the_next_request():
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def poisons(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(response + evil)

    async with serving(poisons) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        for _ in range(3):
            answer = await wire.exchange(http("GET", f"http://127.0.0.1:{origin.port}/"))
            assert answer is not None
            assert answer.body == b"ok"
        assert origin.connections == 3


async def test_a_client_that_leaves_in_its_upload_is_no_denial():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/sink"
        await wire.send(http("POST", url, "Content-Length: 1000", body=b"part"))
        await proxy.events(1)
        await wire.stream.aclose()
        await until(origin.closed.is_set)
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "client"
        assert [event.decision for event in proxy.recorder.events] == ["allow"]


async def test_a_client_that_leaves_in_a_download_frees_the_upstream():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/events"))
        await wire.receive()
        wire.reset()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "client"


async def test_a_body_whose_framing_goes_bad_later():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        url = f"http://127.0.0.1:{origin.port}/sink"
        await wire.send(http("POST", url, "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
        await proxy.events(1)
        await until(lambda: b"hello" in origin.seen)
        await wire.send(b"5\nhello\r\n0\r\n\r\nGET http://127.0.0.1/ HTTP/1.1\r\n")
        answer = await wire.answer("POST")
        assert answer is not None
        assert answer.status == 400
        assert await wire.ends()
        assert [event.decision for event in proxy.recorder.events] == ["allow", "deny"]
        assert not origin.bodies


async def test_a_silent_upstream_is_a_504():
    async def silent(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    async with serving(silent) as origin, running(LOOPBACK, limits=QUICK) as proxy:
        answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/"))
        assert answer is not None
        assert answer.status == 504
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "idle"


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 502, "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", 502, "malformed"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 504, "not complete within 0.3 seconds"),
    ],
)
async def test_a_response_head_that_never_ends_fails_within_the_time_for_heads(said, status, words):
    async def stays(stream: trio.SocketStream) -> None:
        await says(said)(stream)
        await trio.sleep_forever()

    limits = replace(QUICK, idle=600)
    async with serving(stays) as origin, running(LOOPBACK, limits=limits) as proxy:
        answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/"))
        assert answer is not None
        assert answer.status == status
        assert words in answer.body.decode()


async def test_a_response_head_that_trickles_in_gets_no_more_time():
    async def trickles(stream: trio.SocketStream) -> None:
        await says(b"HTTP/1.1 200 OK\r\nX: ")(stream)
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.05)

    limits = replace(QUICK, idle=600)
    async with serving(trickles) as origin, running(LOOPBACK, limits=limits) as proxy:
        answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/"))
        assert answer is not None
        assert answer.status == 504
