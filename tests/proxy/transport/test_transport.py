"""Transports: when a read is tried, when a write is waited for, and what else can be one."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace
from origin import serving, tls_context
from running_proxy import BOUND, QUICK, TOKEN, Wire, connect, http

from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.http.connection import HttpConnection
from nono_trio.proxy.listeners.proxy import Proxy
from nono_trio.proxy.transport.epoll import Readiness
from nono_trio.proxy.transport.relay import Relay, RelayBuffer
from nono_trio.proxy.transport.tls import TlsTransport
from nono_trio.proxy.transport.transport import SideFailed, TcpTransport
from nono_trio.steps import go_on
from nono_trio.testing import MemoryRecorder
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENT = replace(QUICK, head=30.0, keep_alive=30.0, idle=30.0)


# -- waking ---------------------------------------------------------------------------------------


async def test_a_wake_that_comes_first_is_kept():
    waker = Waker()
    waker.wake()
    with trio.fail_after(BOUND):
        await waker.sleep()
    with trio.move_on_after(0.01) as scope:
        await waker.sleep()
    assert scope.cancelled_caught, "one wake ends one sleep"


async def test_wakes_on_the_way_to_the_task_are_one_wake():
    waker = Waker()

    async def sleep() -> None:
        await waker.sleep()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await trio.testing.wait_all_tasks_blocked()
        waker.wake()
        waker.wake()
    with trio.move_on_after(0.01) as scope:
        await waker.sleep()
    assert scope.cancelled_caught


async def test_a_cancelled_sleep_leaves_the_waker_usable():
    waker = Waker()
    with trio.move_on_after(0.01):
        await waker.sleep()
    waker.wake()
    with trio.fail_after(BOUND):
        await waker.sleep()


# -- plain sockets --------------------------------------------------------------------------------


class CountingSocket(socket.socket):
    """A socket that counts how often it was read."""

    reads = 0

    def recv(self, *arguments: int) -> bytes:
        self.reads += 1
        return super().recv(*arguments)

    def recv_into(self, *arguments: object) -> int:
        self.reads += 1
        return super().recv_into(*arguments)


@dataclass
class Pair:
    """A transport, its socket, and the peer's."""

    transport: TcpTransport
    ours: CountingSocket
    theirs: socket.socket
    readiness: Readiness

    async def woken(self) -> None:
        with trio.fail_after(BOUND):
            await self.transport.waker.sleep()


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Two connected sockets; what happens to ours is reported while the body runs."""
    near, theirs = socket.socketpair()
    ours = CountingSocket(near.family, near.type, 0, fileno=near.detach())
    ours.setblocking(False)
    theirs.setblocking(False)
    readiness = Readiness()
    transport = TcpTransport(ours, "client", Waker(), readiness)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.dispatch)
        with ours, theirs:
            yield Pair(transport, ours, theirs, readiness)
            transport.close()
        assert len(readiness) == 0
        nursery.cancel_scope.cancel()
    readiness.close()


async def test_what_happens_to_a_registered_socket():
    async with pair() as two:
        transport = two.transport
        transport.register()
        two.theirs.send(b"x")
        await two.woken()
        assert (transport.readable, transport.ending, transport.broken) == (True, False, False)
        two.theirs.shutdown(socket.SHUT_WR)
        await two.woken()
        assert (transport.ending, transport.broken) == (True, False)
        two.theirs.close()
        await two.woken()
        assert transport.broken


async def test_a_socket_that_nobody_reports_on_is_tried_each_time():
    async with pair() as two:
        assert two.transport.try_receive() is None
        two.theirs.send(b"one")
        assert two.transport.try_receive() == b"one"
        two.theirs.send(b"two")
        assert two.transport.try_receive() == b"two"
        assert len(two.readiness) == 0


async def test_a_read_that_emptied_the_socket_is_the_last_until_more_is_reported():
    async with pair() as two:
        two.transport.register()
        assert two.transport.try_receive() is None
        assert two.ours.reads == 0, "registering reports what is there"
        two.theirs.send(b"hello")
        await two.woken()
        assert two.transport.try_receive(3) == b"hel"
        assert two.transport.try_receive(3) == b"lo"
        assert two.transport.try_receive(3) is None
        assert two.ours.reads == 2
        two.theirs.send(b"more")
        await two.woken()
        space = memoryview(bytearray(10))
        assert two.transport.try_receive_into(space, 10) == 4
        assert two.transport.try_receive_into(space, 10) is None
        assert two.ours.reads == 3


async def test_after_the_peers_end_a_short_read_is_not_the_last():
    async with pair() as two:
        two.transport.register()
        two.theirs.send(b"last")
        two.theirs.shutdown(socket.SHUT_WR)
        await two.woken()
        assert two.transport.try_receive() == b"last"
        assert two.transport.try_receive() == b""


@pytest.mark.parametrize("is_registered", [True, False])
async def test_a_full_socket_wakes_its_task_when_it_takes_bytes_again(is_registered):
    async with pair() as two:
        if is_registered:
            two.transport.register()
        while two.transport.try_send(bytes(100_000)) == 100_000:
            pass
        await trio.testing.wait_all_tasks_blocked()
        two.transport.waker.__init__()  # wakes so far were about the time before it was full
        assert two.transport.try_send(b"x") == 0
        with suppress(BlockingIOError):
            while two.theirs.recv(100_000):
                pass
        await two.woken()
        assert two.transport.try_send(b"y") == 1


async def test_a_broken_connection_says_whose_and_how():
    async with pair() as two:
        two.theirs.close()
        with pytest.raises(SideFailed) as raised:
            two.transport.try_send(b"x")
        assert (raised.value.side, type(raised.value.__cause__)) == ("client", BrokenPipeError)
        assert raised.value.errno == raised.value.__cause__.errno
        assert not two.transport.is_silent()
        assert not two.transport.has_bytes()


async def test_looking_takes_nothing():
    async with pair() as two:
        assert two.transport.is_silent()
        two.theirs.send(b"x")
        assert two.transport.has_bytes()
        assert not two.transport.is_silent()
        assert two.transport.try_receive() == b"x"


# -- another transport ----------------------------------------------------------------------------


@asynccontextmanager
async def proxy_under_tls(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A proxy whose clients speak TLS to it; gives its port."""
    proxy = Proxy(Policy.build(allow=["127.0.0.1:*"]), MemoryRecorder(), TOKEN, limits=PATIENT)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_under_tls(client, proxy_context, *, full):
        client.transport = TlsTransport(client.transport, context)
        return HttpConnection(client, proxy_context, full=full)

    async with trio.open_nursery() as handlers:
        handlers.start_soon(proxy.serve_with, serve_under_tls, listener, handlers)
        yield listener.getsockname()[1]
        handlers.cancel_scope.cancel()


@asynccontextmanager
async def tls_client(port: int, trust: Path) -> AsyncIterator[Wire]:
    context = ssl.create_default_context(cafile=str(trust))
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with trio.SSLStream(stream, context, server_hostname="localhost") as under_tls:
        yield Wire(under_tls)


async def test_requests_and_tunnels_go_through_tls_as_they_go_through_tcp(tmp_path):
    """Streams, exchange and tunnel know of `Transport` only."""
    context, trust = tls_context(tmp_path)
    async with serving() as origin, proxy_under_tls(context) as port:
        url = f"http://127.0.0.1:{origin.port}"
        async with tls_client(port, trust) as wire:
            for size in (10, 1_000_000):  # more than the sockets hold
                answer = await wire.exchange(http("GET", f"{url}/bytes/{size}"))
                assert answer is not None
                assert (answer.complete, len(answer.body)) == (True, size)
            body = bytes(300_000)
            length = f"Content-Length: {len(body)}"
            answer = await wire.exchange(http("POST", f"{url}/sink", length, body=body))
            assert answer is not None
            assert answer.status == 200
        async with tls_client(port, trust) as wire:
            answer = await wire.exchange(connect(f"127.0.0.1:{origin.port}"), "CONNECT")
            assert answer is not None
            assert answer.status == 200
            answer = await wire.exchange(b"GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer is not None
            assert len(answer.body) == 1_000_000


async def test_a_relay_between_tls_and_tcp_waits_for_slow_readers(tmp_path):
    context, trust = tls_context(tmp_path)
    readiness, waker, sent = Readiness(), Waker(), bytes(range(256)) * 8_000
    near, client = socket.socketpair()
    far, server = socket.socketpair()
    for sock in (near, client, far, server):
        sock.setblocking(False)
    ends = (
        TcpTransport(near, "client", waker, readiness),
        TcpTransport(far, "upstream", waker, readiness),
    )
    for end in ends:
        end.register()
    relay = Relay(TlsTransport(ends[0], context), ends[1], RelayBuffer())
    peer = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(client)),
        ssl.create_default_context(cafile=str(trust)),
        server_hostname="localhost",
    )
    plain = trio.SocketStream(trio.socket.from_stdlib_socket(server))

    async def run() -> None:
        await go_on(relay.run(waker.sleep_while))
        relay.release()
        for end in ends:
            end.close()

    async def send(stream: trio.abc.Stream) -> None:
        await stream.send_all(sent)

    async def receive(stream: trio.abc.Stream) -> None:
        got = bytearray()
        while len(got) < len(sent):
            got += await stream.receive_some(10_000)
            await trio.lowlevel.checkpoint()
        assert got == sent

    async with trio.open_nursery() as reporting:
        reporting.start_soon(readiness.dispatch)
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                async with trio.open_nursery() as both_ways:
                    both_ways.start_soon(send, peer)
                    both_ways.start_soon(receive, plain)
                    both_ways.start_soon(send, plain)
                    both_ways.start_soon(receive, peer)
                await plain.aclose()
                await trio.aclose_forcefully(peer)
        reporting.cancel_scope.cancel()
    assert (relay.up.moved, relay.down.moved) == (len(sent), len(sent))
    readiness.close()
