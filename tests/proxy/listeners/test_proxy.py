"""The accept loop: tasks at rest, a system that runs short, clients of every kind."""

from __future__ import annotations

import errno
import gc
import os
import random
import socket
from contextlib import AsyncExitStack, ExitStack, suppress

import pytest
import trio
from msgspec.structs import replace
from origin import serving
from running_proxy import AUTH, BOUND, PATIENT, QUICK, TOKEN, connect, http, running, until

from nono_trio.core.log.events import Network, encode_payload
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.limits import ACCEPT_BACKOFF
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.steps import become_task
from nono_trio.testing import FakeResolver, LoopbackDialler, MemoryRecorder
from nono_trio.waker import Waker

LOOPBACK = ["127.0.0.1:*"]


class ShortListener(socket.socket):
    """A listener whose system is out of descriptors for a while."""

    failures: list[int]

    def _accept(self) -> tuple[int, object]:
        if self.failures:
            raise OSError(self.failures.pop(0), "as told")
        return super()._accept()


@pytest.mark.parametrize(
    "failures", [[errno.EMFILE], [errno.ENFILE, errno.ENOBUFS], [errno.ECONNABORTED] * 1000]
)
async def test_the_accept_loop_survives_what_accept_raises(failures):
    listener = ShortListener()
    listener.failures = failures
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    recorder = MemoryRecorder()
    proxy = Proxy(Policy.build(), recorder, TOKEN, limits=QUICK)
    async with trio.open_nursery() as handlers, trio.open_nursery() as front:
        await front.start(proxy.serve, listener, handlers)
        with trio.fail_after(BOUND + 2 * ACCEPT_BACKOFF):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(connect("evil.test:443"))
                assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 403")
        front.cancel_scope.cancel()
    assert failures == []


async def test_cancelling_serve_closes_the_listener_and_lets_handlers_end():
    async with serving() as origin, running(LOOPBACK) as proxy:
        await proxy.ask(http("GET", f"http://127.0.0.1:{origin.port}/small"))
        proxy.accepting.cancel()
        await until(proxy.ended.is_set)
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def test_idle_connections_end_with_the_listener_and_busy_ones_after_their_request():
    limits = PATIENT
    async with (
        serving() as origin,
        running(LOOPBACK, limits=limits) as proxy,
        proxy.client() as idle,
        proxy.client() as busy,
    ):
        base = f"http://127.0.0.1:{origin.port}"
        await idle.send(http("GET", f"{base}/small"))
        await idle.answer()
        await busy.send(http("GET", f"{base}/events"))
        await busy.receive()
        proxy.accepting.cancel()
        assert await idle.ends()
        origin.released.set()
        while b"0\r\n\r\n" not in await busy.receive():
            pass
        assert await busy.ends()
        await until(proxy.ended.is_set)


async def test_each_client_has_its_turn_before_another_gets_its_place():
    """All have connected before the proxy accepts, and there is one place."""
    dropped = []

    class Noting:
        def __init__(self, client: Client, _: object, *, full: bool) -> None:
            self.client = client

        async def handle(self) -> None:
            dropped.append(self.client.dropped)
            self.client.close()

    limits = replace(PATIENT, connections=1, refusals=0)
    proxy = Proxy(Policy.build(), MemoryRecorder(), TOKEN, limits=limits)
    listener = socket.create_server(("127.0.0.1", 0))
    with ExitStack() as clients, trio.fail_after(BOUND):
        for _ in range(3):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        async with trio.open_nursery() as handlers, trio.open_nursery() as front:
            front.start_soon(proxy.serve_with, Noting, listener, handlers)
            await trio.testing.wait_all_tasks_blocked()
            front.cancel_scope.cancel()
    assert dropped == [False, False, False]


@pytest.mark.parametrize("in_task", [False, True])
async def test_a_client_that_lost_its_place_at_the_end_is_served_to_its_end(in_task):
    record, seen = Waker(), []

    class Recording:
        """Is in the middle of a record when its place is given away."""

        def __init__(self, client: Client, _: object, *, full: bool) -> None:
            self.client = client

        async def handle(self) -> None:
            self.client.idle = True
            if in_task:
                await become_task()
            try:
                await record.sleep()
                with suppress(Expired):
                    await self.client.pause()
                seen.append("served")
            finally:
                self.client.close()

    proxy = Proxy(Policy.build(), MemoryRecorder(), TOKEN, limits=PATIENT)
    listener = socket.create_server(("127.0.0.1", 0))
    with trio.fail_after(BOUND), socket.create_connection(listener.getsockname()):
        async with trio.open_nursery() as handlers:
            async with trio.open_nursery() as front:
                front.start_soon(proxy.serve_with, Recording, listener, handlers)
                await trio.testing.wait_all_tasks_blocked()
                assert proxy.open_connections == 1
                front.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert proxy.open_connections == 0
            record.wake()
    assert seen == ["served"]


async def test_two_listeners_share_one_proxy():
    proxy = Proxy(Policy.build(LOOPBACK), MemoryRecorder(), TOKEN, limits=QUICK)
    one, two = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    ports = [sock.getsockname()[1] for sock in (one, two)]

    async def ask(port: int, target: str) -> bytes:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(connect(target))
            return (await stream.receive_some(100))[9:12]

    async with trio.open_nursery() as handlers, trio.open_nursery() as front:
        await front.start(proxy.serve, one, handlers)
        assert await ask(ports[0], f"127.0.0.1:{ports[1]}") == b"200"
        await front.start(proxy.serve, two, handlers)
        for port in ports:
            for target in ports:
                assert await ask(port, f"127.0.0.1:{target}") == b"403"
        front.cancel_scope.cancel()


async def test_no_descriptor_and_no_task_is_left_behind():
    async with serving() as origin, running(LOOPBACK) as proxy:
        base = f"127.0.0.1:{origin.port}"

        async def use() -> None:
            await proxy.ask(connect("evil.test:443"))
            await proxy.ask(http("GET", f"http://{base}/small"))
            await proxy.ask(connect(base), "CONNECT")
            await proxy.ask(connect("127.0.0.1:1"))
            await proxy.ask(b"nonsense\r\n\r\n")

        def descriptors() -> int:
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        await use()
        await until(lambda: not proxy.proxy.open_connections and origin.open == 0)
        before = descriptors()
        for _ in range(20):
            await use()
        await until(lambda: not proxy.proxy.open_connections and origin.open == 0)
        await until(lambda: descriptors() <= before)
        assert proxy.proxy.watched_sockets == 0


async def test_many_clients_at_once():
    limits = PATIENT
    async with serving() as origin, running(LOOPBACK, limits=limits) as proxy:

        async def client() -> None:
            async with proxy.client() as wire:
                for _ in range(3):
                    await wire.send(http("GET", f"http://127.0.0.1:{origin.port}/bytes/100000"))
                    answer = await wire.answer()
                    assert answer is not None
                    assert len(answer.body) == 100_000

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(client)
        assert len(await proxy.flows(300)) == 300


def mutations(seed: int, count: int) -> list[bytes]:
    """Good requests with a few bytes changed, doubled, dropped, or cut."""
    source = random.Random(seed)  # the same ones every time
    good = [
        http("GET", "http://a.test/small?x=1", "X: y"),
        http("POST", "http://a.test/sink", "Content-Length: 5", body=b"hello"),
        http(
            "POST",
            "http://a.test/sink",
            "Transfer-Encoding: chunked",
            body=b"3\r\nabc\r\n0\r\n\r\n",
        ),
        connect("a.test:443", "User-Agent: x"),
        http("HEAD", "http://a.test/small") + http("GET", "http://a.test/small"),
    ]
    pieces = [
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\x80",
        b"/",
        b"@",
        b"%",
        b"0",
        b",",
    ]
    wires = []
    for _ in range(count):
        wire = bytearray(source.choice(good))
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(wire))
            end = at + source.choice([0, 0, 1, 1, 2, 20])
            wire[at:end] = source.choice([b"", wire[at:end] * 2, source.choice(pieces)])
        wires.append(bytes(wire))
    return wires


async def test_mutated_requests_do_no_harm(caplog):
    resolver = FakeResolver({"a.test": [["192.0.2.1"]]})
    async with serving() as origin:
        dialler = LoopbackDialler(origin.port)
        async with (
            running(["a.test"], resolver=resolver, dialler=dialler) as proxy,
            AsyncExitStack() as stack,
        ):
            for wire in mutations(20_251_124, 400):
                client = await stack.enter_async_context(proxy.client())
                with suppress(trio.BrokenResourceError):  # a reset is an answer too
                    await client.send(wire)
                    await client.end()
            await until(lambda: not proxy.proxy.open_connections)
            events = proxy.recorder.events
    assert caplog.records == []
    assert set(resolver.asked) <= {"a.test"}
    assert set(dialler.dialled) <= {("192.0.2.1", 80), ("192.0.2.1", 443)}
    lines = b"\n".join(encode_payload(Network(event=event)) for event in events)
    assert lines.count(b"\n") == len(events) - 1
    assert TOKEN.encode() not in lines
    assert AUTH.split()[1].encode() not in lines
    assert b"proxy-authorization" not in origin.seen.lower()
