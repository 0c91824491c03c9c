"""Slow, silent, greedy and numerous clients: each is bounded, and others are served."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import pytest
import trio
from msgspec.structs import replace
from origin import serving
from running_proxy import AUTH, PATIENT, QUICK, Wire, connect, http, running, until

from nono_trio.proxy.limits import ACCEPT_BATCH, MAX_CHALLENGES

LOOPBACK = ["127.0.0.1:*"]


async def test_a_silent_client_is_closed_without_an_event():
    async with running(limits=QUICK) as proxy, proxy.client() as wire:
        assert await wire.ends()
        assert proxy.recorder.events == []


async def test_an_unfinished_head_is_a_408_however_it_dribbles():
    async with running(limits=QUICK) as proxy, proxy.client() as wire:
        answers = []

        async def read() -> None:
            answers.append(await wire.answer())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for byte in b"GET http://127.0.0.1/" + b"a" * 1000:
                await wire.send(bytes([byte]))
                await trio.sleep(0.01)
        assert answers[0] is not None
        assert answers[0].status == 408
        assert [event.decision for event in proxy.recorder.events] == ["deny"]


async def test_a_head_cut_short_is_a_400():
    async with running() as proxy, proxy.client() as wire:
        await wire.send(b"CONNECT allowed.test:443 HTTP/1.1\r\nHost: a")
        await wire.end()
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 400
        assert [event.decision for event in proxy.recorder.events] == ["deny"]


@pytest.mark.parametrize("step", [1, 7])
async def test_a_head_byte_by_byte_is_a_head(step):
    async with (
        serving() as origin,
        running(LOOPBACK, limits=PATIENT) as proxy,
        proxy.client() as wire,
    ):
        request = http("GET", f"http://127.0.0.1:{origin.port}/small")
        for at in range(0, len(request), step):
            await wire.send(request[at : at + step])
            await trio.lowlevel.checkpoint()
        answer = await wire.answer()
        assert answer is not None
        assert answer.body == b"ok"


async def test_a_kept_alive_connection_is_closed_when_idle():
    async with (
        serving() as origin,
        running(LOOPBACK, limits=QUICK) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/small"))
        await wire.answer()
        assert await wire.ends()
        assert len(proxy.recorder.events) == 1
        await until(origin.closed.is_set)


async def test_idle_sockets_do_not_hold_up_a_request():
    async with (
        serving() as origin,
        running(LOOPBACK, limits=PATIENT) as proxy,
        AsyncExitStack() as stack,
    ):
        for _ in range(300):
            await stack.enter_async_context(proxy.client())
        answer = await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/small"))
        assert answer is not None
        assert answer.body == b"ok"


async def idle_clients(proxy, stack: AsyncExitStack, count: int) -> list[Wire]:
    """Clients that have sent one request and keep their place without another."""
    wires = []
    for _ in range(count):
        wire = await stack.enter_async_context(proxy.client())
        await wire.send(http("GET", "http://evil.test/"))
        await wire.answer()
        wires.append(wire)
    return wires


async def test_a_full_table_drops_idle_connections_first():
    limits = replace(PATIENT, connections=10, refusals=2)
    async with running(limits=limits) as proxy, AsyncExitStack() as stack:
        first, *_ = await idle_clients(proxy, stack, 10)
        answer = await proxy.ask(connect("evil.test:443"))
        assert answer is not None
        assert answer.status == 403
        assert await first.ends()


async def test_a_table_full_of_tunnels_refuses_with_an_event():
    limits = replace(PATIENT, connections=3, refusals=2)
    async with (
        serving() as origin,
        running(LOOPBACK, limits=limits) as proxy,
        AsyncExitStack() as stack,
    ):
        target = f"127.0.0.1:{origin.port}"
        for _ in range(3):
            wire = await stack.enter_async_context(proxy.client())
            await wire.send(connect(target))
            await wire.answer("CONNECT")
        for _ in range(2 * ACCEPT_BATCH):
            answer = await proxy.ask(connect(target))
            assert answer is not None
            assert answer.status == 503
            assert b"hint: " in answer.body
        events = await proxy.events(3 + 2 * ACCEPT_BATCH)
        assert events[-1] == ("deny", "127.0.0.1", origin.port)
        assert origin.connections == 3
        await stack.aclose()
        await until(lambda: proxy.proxy.open_connections < 3)
        answer = await proxy.ask(connect(target), "CONNECT")
        assert answer is not None
        assert answer.status == 200


async def test_clients_that_come_at_once_get_no_more_places_than_there_are():
    """Each that came while another had not been read yet took a place beyond the limit."""
    limits = replace(PATIENT, connections=2, refusals=30)
    async with (
        serving() as origin,
        running(LOOPBACK, limits=limits) as proxy,
        AsyncExitStack() as stack,
    ):
        target = f"127.0.0.1:{origin.port}"
        statuses = []
        for _ in range(2):  # the second time without a free place
            crowd = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(10)]
            for sock in crowd:  # without a turn for the proxy, which then accepts them all
                sock.sendall(connect(target))
            for sock in crowd:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                answer = await Wire(await stack.enter_async_context(stream)).answer("CONNECT")
                assert answer is not None
                statuses.append(answer.status)
        assert sorted(statuses[:10]) == [200] * 2 + [503] * 8
        assert statuses[10:] == [503] * 10
        events = await proxy.events(20)
        assert [decision for decision, *_ in events].count("deny") == 18


async def test_beyond_all_places_nothing_is_accepted_until_one_is_free():
    limits = replace(PATIENT, connections=10, refusals=5, linger=30.0)
    async with (
        serving() as origin,
        running(LOOPBACK, limits=limits) as proxy,
        AsyncExitStack() as stack,
    ):
        for _ in range(10):
            wire = await stack.enter_async_context(proxy.client())
            await wire.send(connect(f"127.0.0.1:{origin.port}"))
            await wire.answer("CONNECT")
        for _ in range(5):  # the answer says that there is no place, and there is time to read it
            wire = await stack.enter_async_context(proxy.client())
            await wire.send(http("POST", "http://evil.test/", "Content-Length: 9"))
            await wire.answer()
        async with proxy.client() as wire:
            await wire.send(connect("evil.test:443"))
            with trio.move_on_after(0.1) as waiting:
                await wire.stream.receive_some(1)
            assert waiting.cancelled_caught
            await stack.aclose()
            answer = await wire.answer()
        assert answer is not None
        assert answer.status in (403, 503)


async def test_a_client_that_never_reads_is_not_buffered():
    async with (
        serving() as origin,
        running(LOOPBACK, limits=PATIENT) as proxy,
        proxy.client() as wire,
    ):
        base = f"http://127.0.0.1:{origin.port}"
        await wire.send(http("GET", f"{base}/100mb"))
        await proxy.events(1)
        answer = await proxy.ask(http("GET", f"{base}/small"))
        assert answer is not None
        assert answer.body == b"ok"
        await wire.stream.aclose()
        flows = await proxy.flows(2)
        assert min(flow.bytes_down for flow in flows) < 200
        assert max(flow.bytes_down for flow in flows) < 50_000_000


async def test_challenges_are_bounded():
    async with running() as proxy, proxy.client() as wire:
        bare = connect("evil.test:443").replace(f"Proxy-Authorization: {AUTH}\r\n".encode(), b"")
        for left in range(MAX_CHALLENGES - 1, -1, -1):
            await wire.send(bare)
            answer = await wire.answer()
            assert answer is not None
            assert answer.status == 407
            assert answer.headers["proxy-authenticate"] == 'Basic realm="nono-trio"'
            assert answer.headers.get("connection") == (None if left else "close")
        assert await wire.ends()
        assert [event.auth_outcome for event in proxy.recorder.events].count("failed") == 0


async def test_a_challenged_client_may_try_again_on_its_connection():
    async with serving() as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        target = f"127.0.0.1:{origin.port}"
        await wire.send(connect(target).replace(AUTH.encode(), b"Basic eDp5"))
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 407
        await wire.send(connect(target))
        answer = await wire.answer("CONNECT")
        assert answer is not None
        assert answer.status == 200
        assert [event.auth_outcome for event in proxy.recorder.events] == ["failed", "succeeded"]


async def test_tunnel_bytes_after_a_challenge_are_not_a_request():
    async with running() as proxy, proxy.client() as wire:
        await wire.send(
            connect("evil.test:443").replace(AUTH.encode(), b"Basic eDp5") + b"\x16\x03\x01"
        )
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 407
        assert await wire.ends()
        assert len(proxy.recorder.events) == 1


async def test_a_flood_of_denials_loses_none():
    async with running() as proxy:

        async def deny(count: int) -> None:
            for _ in range(count):
                answer = await proxy.ask(connect("evil.test:443"))
                assert answer is not None
                assert answer.status == 403

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(deny, 100)
        assert len(proxy.recorder.events) == 1000


async def test_the_answer_survives_a_client_that_is_still_sending():
    async with running() as proxy, proxy.client() as wire:
        request = http("POST", "http://evil.test/", "Content-Length: 3000000")
        await wire.send(request + b"x" * 3_000_000)
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 403
        assert answer.headers["connection"] == "close"


async def test_a_client_is_told_that_nothing_more_comes_while_it_still_sends():
    limits = replace(PATIENT, linger=30.0)
    async with running(limits=limits) as proxy, proxy.client() as wire:
        await wire.send(http("POST", "http://evil.test/", "Content-Length: 1000", body=b"x"))
        answer = await wire.answer()
        assert answer is not None
        assert answer.status == 403
        assert await wire.ends()
        await wire.send(b"x" * 10)


async def test_a_denied_head_request_has_no_body():
    async with running() as proxy, proxy.client() as wire:
        for _ in range(2):
            await wire.send(http("HEAD", "http://evil.test/"))
            answer = await wire.answer("HEAD")
            assert answer is not None
            assert (answer.status, answer.body) == (403, b"")
