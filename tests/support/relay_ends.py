"""A relay between two peers of a test, whose steps the test calls; nothing in it waits."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
from running_proxy import BOUND

from nono_trio.proxy.limits import TURN_BYTES
from nono_trio.proxy.transport import relay as relaying
from nono_trio.proxy.transport.epoll import Readiness
from nono_trio.proxy.transport.relay import Relay, RelayBuffer
from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.steps import go_on
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

SIOCOUTQ, FIONREAD = 0x5411, 0x541B
SMALL = 1 << 16  # bytes; the kernel doubles it
RESET = struct.pack("ii", 1, 0)
TEXT = os.urandom(1 << 16) * 64  # 4 MiB


def tcp_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets of loopback, which do not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = stack.enter_context(socket.create_connection(listener.getsockname()))
        other = stack.enter_context(listener.accept()[0])
    for sock in (one, other):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def unix_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets of the Unix domain, which do not block."""
    pair = socket.socketpair()
    for sock in pair:
        stack.enter_context(sock).setblocking(False)
    return pair


class Ends:
    """A relay between two peers, `client` and `server`, of which nothing waits."""

    def __init__(self, stack: ExitStack, buffer: RelayBuffer, pair=tcp_pair) -> None:
        self.buffer = buffer
        self.readiness = Readiness()
        self.waker = Waker()
        self.client, near = pair(stack)
        self.server, far = pair(stack)
        self.near = TcpTransport(near, "client", self.waker, self.readiness)
        self.far = TcpTransport(far, "upstream", self.waker, self.readiness)
        self.relay = Relay(self.near, self.far, buffer)

    def close(self) -> None:
        self.relay.release()
        self.near.close()
        self.far.close()
        self.readiness.close()

    def pour_down(self) -> bytes:
        """Have the server send, and the relay move, until neither can; return what was sent.

        The relay's sink is full then: it holds less than the server may send."""
        self.near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sent = bytearray()
        with suppress(BlockingIOError):
            while True:
                piece = TEXT[len(sent) % 65536 :][:500_000]
                sent += piece[: self.server.send(piece)]
                self.relay.down.pump(TURN_BYTES)
        return bytes(sent)

    def drain(self, count: int) -> bytes:
        """Have the client read, and the relay move, until so many bytes have arrived."""
        got = bytearray()

        def has_all() -> bool:
            got.extend(read_all(self.client))
            self.relay.down.pump(TURN_BYTES)
            return len(got) >= count

        wait_until(has_all)
        return bytes(got)


@contextmanager
def ends(buffer: RelayBuffer | None = None, pair=tcp_pair) -> Iterator[Ends]:
    with ExitStack() as stack:
        two = Ends(stack, buffer or RelayBuffer(), pair)
        stack.callback(two.close)
        yield two


def splice_at_once(patch: pytest.MonkeyPatch) -> None:
    """Splice from the first byte on, however small the pieces are."""
    patch.setattr(relaying, "BULK_AFTER", 0)
    patch.setattr(relaying, "SPLICE_FROM", 0)


def read_all(sock: socket.socket) -> bytes:
    """Return the bytes that have arrived."""
    got = bytearray()
    with suppress(BlockingIOError):
        while piece := sock.recv(1 << 20):
            got += piece
    return bytes(got)


def in_flight(two: Ends) -> int:
    """Bytes that the server has sent and the relay has not taken."""
    space = struct.pack("i", 0)
    unsent = struct.unpack("i", fcntl.ioctl(two.server, SIOCOUTQ, space))[0]
    unread = struct.unpack("i", fcntl.ioctl(two.far.sock, FIONREAD, space))[0]
    return int(unsent + unread)


def wait_until(condition: Callable[[], object]) -> None:
    """Call it until it is true, within BOUND: the kernel passes bytes on in its own time."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def exchange(two: Ends, up: bytes, down: bytes, most: int, first: str) -> dict[str, Any]:
    """Relay both ways at once, `most` bytes a read; the `first` peer ends, then the other one."""
    got: dict[str, Any] = {}
    ended = trio.Event()
    for end in (two.near, two.far):
        end.register()

    async def relay() -> None:
        await go_on(two.relay.run(two.waker.sleep_while))
        two.near.close()
        two.far.close()

    async def send(name: str, stream: trio.SocketStream, data: bytes) -> None:
        await stream.send_all(data)
        if name != first:
            await ended.wait()
        await stream.send_eof()

    async def receive(name: str, stream: trio.SocketStream) -> None:
        received = bytearray()
        while piece := await stream.receive_some(most):
            received += piece
        got[name] = bytes(received)
        if name != first:
            ended.set()

    async with trio.open_nursery() as reporting:
        reporting.start_soon(two.readiness.dispatch)
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay)
                for name, sock, data in (("client", two.client, up), ("server", two.server, down)):
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                    nursery.start_soon(send, name, stream, data)
                    nursery.start_soon(receive, name, stream)
        reporting.cancel_scope.cancel()
    got["moved"] = (two.relay.up.moved, two.relay.down.moved)
    got["closed_by"] = two.relay.closed_by
    return got
