"""CONNECT: tunnels through a real proxy to a real origin."""

from __future__ import annotations

import gc
import ssl
import tracemalloc
from contextlib import AsyncExitStack

import pytest
import trio
from origin import serving, tls_context
from running_proxy import QUICK, connect, http, running, until

from nono_trio.testing import FakeResolver

LOOPBACK = ["127.0.0.1:*"]


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_all(b"[end]")


async def test_a_tunnel_carries_bytes_both_ways():
    async with serving(echo) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        answer = await wire.answer("CONNECT")
        assert answer is not None
        assert answer.status == 200
        await wire.send(b"hello")
        assert await wire.receive_exactly(5) == b"hello"
        await wire.end()
        assert await wire.receive_exactly(5) == b"[end]"
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert (flow.bytes_up, flow.bytes_down, flow.closed_by) == (5, 10, "client")
        assert (flow.sequence, flow.address, flow.port) == (0, "127.0.0.1", origin.port)


async def test_early_bytes_reach_the_upstream():
    async with serving(echo) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}") + b"\x16\x03\x01early")
        await wire.answer("CONNECT")
        assert await wire.receive_exactly(8) == b"\x16\x03\x01early"


async def test_the_upstream_may_end_first():
    async def greets(stream: trio.SocketStream) -> None:
        await stream.send_all(b"bye")
        await stream.send_eof()
        assert await stream.receive_some(100) == b"late"

    async with serving(greets) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        await wire.answer("CONNECT")
        assert await wire.receive_exactly(3) == b"bye"
        assert await wire.ends()
        await wire.send(b"late")
        await wire.end()
        [flow] = await proxy.flows(1)
        assert (flow.bytes_up, flow.bytes_down, flow.closed_by) == (4, 3, "upstream")


@pytest.mark.parametrize("size", [1, 20_000, 5_000_000])
async def test_a_slow_reader_gets_every_byte(size):
    sent = bytes(range(256)) * (size // 256 + 1)

    async def pours(stream: trio.SocketStream) -> None:
        await stream.send_all(sent)

    async with serving(pours) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        await wire.answer("CONNECT")
        got = bytearray()
        while data := await wire.receive():
            got += data
            if len(got) % 7 == 0:
                await trio.sleep(0.001)
        assert got == sent
        assert proxy.proxy.held_bytes == 0


async def test_a_reset_client_closes_the_upstream():
    async with serving(echo) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        await wire.answer("CONNECT")
        wire.reset()
        await until(origin.closed.is_set)
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "client"
        assert [event.decision for event in proxy.recorder.events] == ["allow"]


async def test_a_reset_client_is_not_kept_by_an_upstream_that_takes_no_more():
    ended = trio.Event()

    async def takes_nothing(_stream: trio.SocketStream) -> None:
        await ended.wait()

    async with serving(takes_nothing) as origin, running(LOOPBACK) as proxy:
        async with proxy.client() as wire:
            await wire.send(connect(f"127.0.0.1:{origin.port}"))
            await wire.answer("CONNECT")
            with trio.move_on_after(0.5):
                while True:
                    await wire.send(bytes(100_000))
            wire.reset()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "client"
        ended.set()


async def test_a_dead_upstream_is_a_second_event_and_a_502():
    async with running(LOOPBACK) as proxy:
        answer = await proxy.ask(connect("127.0.0.1:1"), "CONNECT")
        assert answer is not None
        assert answer.status == 502
        assert b"connection refused" in answer.body
        assert await proxy.events(2) == [("allow", "127.0.0.1", 1), ("deny", "127.0.0.1", 1)]
        assert proxy.recorder.events[1].denial_category == "upstream_connect_failed"
        assert proxy.recorder.flows == []


async def test_an_idle_tunnel_is_closed():
    async with (
        serving(echo) as origin,
        running(LOOPBACK, limits=QUICK) as proxy,
        proxy.client() as wire,
    ):
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        await wire.answer("CONNECT")
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert flow.closed_by == "idle"


async def test_shutdown_notes_the_flow():
    async with serving(echo) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}") + b"abc")
        await wire.answer("CONNECT")
        await wire.receive_exactly(3)
        proxy.connections.cancel()
        assert await wire.ends()
        [flow] = await proxy.flows(1)
        assert (flow.closed_by, flow.bytes_up, flow.bytes_down) == ("shutdown", 3, 3)


async def test_the_proxy_ends_with_its_last_client():
    async with serving(echo) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        await wire.answer("CONNECT")
        proxy.accepting.cancel()
        await wire.send(b"still open")
        assert await wire.receive_exactly(10) == b"still open"
        await wire.end()
        await wire.receive_exactly(5)
        assert await wire.ends()
        await until(proxy.ended.is_set)


async def test_tls_through_a_tunnel(tmp_path):
    context, trust = tls_context(tmp_path)
    async with serving(tls=context) as origin, running(LOOPBACK) as proxy, proxy.client() as wire:
        await wire.send(connect(f"127.0.0.1:{origin.port}"))
        await wire.answer("CONNECT")
        inner = trio.SSLStream(
            wire.stream, ssl.create_default_context(cafile=str(trust)), server_hostname="localhost"
        )
        await inner.send_all(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await inner.receive_some(1000)).startswith(b"HTTP/1.1 200")


async def test_the_proxy_does_not_dial_itself():
    async with running(LOOPBACK) as proxy:
        for request in (
            connect(f"127.0.0.1:{proxy.port}"),
            http("GET", f"http://127.0.0.1:{proxy.port}/"),
        ):
            answer = await proxy.ask(request)
            assert answer is not None
            assert answer.status == 403
            assert b"itself" in answer.body
        assert [event.decision for event in proxy.recorder.events] == ["deny", "deny"]


async def test_a_name_of_the_proxy_itself_is_found_out_by_its_address():
    resolver = FakeResolver({"localhost": [["127.0.0.1"]]})
    async with running(["localhost:*"], resolver=resolver) as proxy:
        answer = await proxy.ask(connect(f"localhost:{proxy.port}"))
        assert answer is not None
        assert answer.status == 403
        assert b"itself" in answer.body
        assert [event.decision for event in proxy.recorder.events] == ["allow", "deny"]


async def test_an_open_tunnel_takes_5_kib_at_most():
    """Its request has ended: of the head, 1 KiB here, and of the decision nothing is kept."""
    count = 64

    def taken() -> int:
        gc.collect()
        ours = tracemalloc.Filter(True, "*/nono_trio/*")
        snapshot = tracemalloc.take_snapshot().filter_traces([ours])
        return sum(trace.size for trace in snapshot.traces)

    async with serving(echo) as origin, running(LOOPBACK) as proxy, AsyncExitStack() as stack:

        async def opened(number: int) -> None:
            wire = await stack.enter_async_context(proxy.client())
            about = f"User-Agent: {number:01024}"
            answer = await wire.exchange(connect(f"127.0.0.1:{origin.port}", about), "CONNECT")
            assert answer is not None
            assert answer.status == 200

        await opened(0)  # what the first one imports and keeps for all
        tracemalloc.start()
        try:
            before = taken()
            for number in range(1, count + 1):
                await opened(number)
            each = (taken() - before) / count
            assert each <= 5 * 1024
        finally:
            tracemalloc.stop()
