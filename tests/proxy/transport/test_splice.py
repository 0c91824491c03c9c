"""Bytes through a pipe of the kernel: the same bytes, counts and ends as by reading and sending.

A step of a relay is called by hand where the test is about one; nothing in it waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from await_faults import AwaitFault
from hypothesis import given, settings
from hypothesis import strategies as st
from origin import tls_context
from running_proxy import BOUND

from nono_trio.proxy.limits import BULK_AFTER, MAX_PIPES, PIPE_BYTES, most_pipes
from nono_trio.proxy.transport import relay as relaying
from nono_trio.proxy.transport import splice
from nono_trio.proxy.transport.epoll import Readiness, Waker
from nono_trio.proxy.transport.relay import Relay, RelayBuffer
from nono_trio.proxy.transport.splice import PipePool, splice_between
from nono_trio.proxy.transport.tls import TlsTransport
from nono_trio.proxy.transport.transport import SideFailed, TcpTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not splice.HAS_SPLICE, reason="splice(2) is Linux's")
SIOCOUTQ, FIONREAD = 0x5411, 0x541B
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
        """Have the server send, and the relay move, until neither can; return what was sent."""
        sent = bytearray()
        with suppress(BlockingIOError):
            while True:
                piece = TEXT[len(sent) % 65536 :][:500_000]
                sent += piece[: self.server.send(piece)]
                self.relay.down.pump()
        return bytes(sent)

    def drain(self, count: int) -> bytes:
        """Have the client read, and the relay move, until so many bytes have arrived."""
        got = bytearray()

        def has_all() -> bool:
            got.extend(read_all(self.client))
            self.relay.down.pump()
            return len(got) >= count

        wait_until(has_all)
        return bytes(got)


@contextmanager
def ends(buffer: RelayBuffer | None = None, pair=tcp_pair) -> Iterator[Ends]:
    with ExitStack() as stack:
        two = Ends(stack, buffer or RelayBuffer(), pair)
        stack.callback(two.close)
        yield two


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


# -- the same as without --------------------------------------------------------------------------


async def exchange(two: Ends, up: bytes, down: bytes, most: int, first: str) -> dict[str, Any]:
    """Relay both ways at once, `most` bytes a read; the `first` peer ends, then the other one."""
    got: dict[str, Any] = {}
    ended = trio.Event()
    for end in (two.near, two.far):
        end.register()

    async def relay() -> None:
        await two.relay.run(two.waker.sleep)
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


SIZES = st.one_of(
    st.integers(0, 3), st.integers(BULK_AFTER - 2, BULK_AFTER + 2), st.integers(0, len(TEXT))
)


@settings(max_examples=12)
@given(
    up=SIZES,
    down=SIZES,
    most=st.sampled_from([10_000, 1 << 20]),
    room=st.sampled_from([None, 8192]),
    first=st.sampled_from(["client", "server"]),
)
def test_a_relay_delivers_the_same_with_splice_as_without(up, down, most, room, first):
    """Sizes, half-closes, slow readers and small sockets at random."""
    told = []
    for with_splice in (True, False):
        with pytest.MonkeyPatch.context() as patch, ends() as two:
            patch.setattr(splice, "HAS_SPLICE", with_splice)
            for sock in (two.near.sock, two.far.sock):
                if room is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            told.append(trio.run(exchange, two, TEXT[:up], TEXT[:down], most, first))
            assert two.buffer.held == 0
        assert two.buffer.pipes.open_pipes == 0
    assert told[0] == told[1]
    assert told[0]["moved"] == (up, down)
    assert (told[0]["client"], told[0]["server"]) == (TEXT[:down], TEXT[:up])
    assert told[0]["closed_by"] == ("client" if first == "client" else "upstream")


def test_many_bytes_go_through_a_pipe_and_few_do_not():
    """Without this the other tests could pass by reading and sending."""
    with ends() as two:
        two.server.send(TEXT[: BULK_AFTER - 1])
        two.relay.down.pump()
        assert two.buffer.pipes.open_pipes == 0
        two.pour_down()
        assert two.relay.down.moved > BULK_AFTER
        assert two.buffer.pipes.open_pipes == 1
    assert two.buffer.pipes.open_pipes == 0


def test_a_turn_moves_no_more_than_other_tasks_may_be_kept_waiting_for(monkeypatch):
    monkeypatch.setattr(relaying, "TURN_BYTES", 50_000)
    monkeypatch.setattr(relaying, "BULK_AFTER", 0)
    with ends() as two:
        sent = two.server.send(TEXT[:200_000])
        turns = []
        while sum(turns) < sent:
            before = two.relay.down.moved
            may_have_more = two.relay.down.pump()
            turns.append(two.relay.down.moved - before)
            assert may_have_more or turns[-1] < 50_000
        assert max(turns) == 50_000


def test_urgent_data_neither_ends_a_stream_nor_stalls_it():
    """splice(2) stops before it; at the end it even returns 0. A read leaves it out."""
    with ends() as two:
        two.drain(len(two.pour_down()))
        before = two.relay.down.moved
        two.server.send(b"before")
        two.server.send(b"!", socket.MSG_OOB)
        two.server.send(b"after")
        two.server.shutdown(socket.SHUT_WR)
        two.far.ending = True
        assert two.drain(len(b"beforeafter")) == b"beforeafter"
        wait_until(lambda: two.relay.down.pump() or two.relay.down.done)
        assert two.relay.down.moved - before == len(b"beforeafter")


def test_what_must_be_seen_is_not_spliced(monkeypatch):
    """A hello that is followed, and a sieve."""
    monkeypatch.setattr(relaying, "BULK_AFTER", 0)
    seen = bytearray()

    class Sieve:
        def take(self, data: bytes) -> bytes:
            seen.extend(data)
            return data

        def ready(self) -> bytes:
            return b""

    def look(data: bytes | memoryview) -> bool:
        seen.extend(data)
        return len(seen) == 6

    with ends() as two:
        two.relay.up.look = look
        two.relay.down.sieve = Sieve()
        for piece in (b"one", b"two", b"three"):
            two.client.send(piece)
            wait_until(lambda: two.relay.up.pump() or in_flight(two) == 0)
        for piece in (b"four", b"five"):
            two.server.send(piece)
            wait_until(lambda: two.relay.down.pump() or in_flight(two) == 0)
        assert bytes(seen) == b"onetwofourfive"
        assert (read_all(two.server), read_all(two.client)) == (b"onetwothree", b"fourfive")


def test_tls_is_not_spliced(tmp_path):
    context, _ = tls_context(tmp_path)
    with ends() as two:
        under_tls = TlsTransport(two.near, context)
        pool = two.buffer.pipes
        assert splice_between(under_tls, two.far, pool) is None
        assert splice_between(two.far, under_tls, pool) is None


# -- a sink that is full, or dead -----------------------------------------------------------------


def test_a_full_sink_stops_the_source_and_then_gets_every_byte():
    with ends() as two:
        sent = two.pour_down()
        held = two.buffer.held
        assert 0 < held <= PIPE_BYTES
        two.relay.down.pump()
        assert two.buffer.held == held, "more was taken while the sink was full"
        assert two.drain(len(sent)) == sent
        assert two.relay.down.moved == len(sent)
        assert two.buffer.held == 0


async def test_a_task_is_woken_when_a_full_sink_takes_bytes_again():
    with ends() as two:
        two.pour_down()
        assert two.buffer.held > 0
        async with trio.open_nursery() as reporting:
            reporting.start_soon(two.readiness.dispatch)
            await trio.testing.wait_all_tasks_blocked()
            two.waker.__init__()  # wakes so far were about the time before it was full
            read_all(two.client)
            with trio.fail_after(BOUND):
                await two.waker.sleep()
            reporting.cancel_scope.cancel()


def kill(peer: socket.socket) -> None:
    """Reset its connection."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()


def test_what_a_pipe_holds_when_the_sink_dies_does_not_count_as_moved():
    with ends() as two:
        sent = two.pour_down()
        down, held = two.relay.down, two.buffer.held
        assert held > 0
        wait_until(lambda: len(sent) == down.moved + held + in_flight(two))
        moved = down.moved
        kill(two.client)
        with pytest.raises(SideFailed) as failed:
            wait_until(down.pump)
        assert failed.value.side == "client"
        assert failed.value.errno in relaying.PEER_ENDED
        assert (down.moved, two.buffer.held) == (moved, held)
        two.relay.release()
        assert two.buffer.held == two.buffer.pipes.open_pipes == 0


def test_what_was_taken_before_the_source_dies_is_sent():
    with ends() as two:
        two.pour_down()
        down, taken_so_far = two.relay.down, two.relay.down.moved + two.buffer.held
        kill(two.server)
        got = bytearray()

        def fails() -> bool:
            got.extend(read_all(two.client))
            down.pump()
            return False

        with pytest.raises(SideFailed) as failed:
            wait_until(fails)
        assert (failed.value.side, failed.value.errno) == ("upstream", errno.ECONNRESET)
        assert down.moved >= taken_so_far
        wait_until(lambda: got.extend(read_all(two.client)) or len(got) == down.moved)
        assert two.buffer.held == 0


# -- where it can't be done -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
@pytest.mark.parametrize("into_pipe", [True, False])
def test_sockets_or_a_system_that_can_not_are_read_and_sent(monkeypatch, number, into_pipe):
    """Also if only the sink can't, and the pipe holds bytes."""
    real, refused = os.splice, []

    def refuse(source: int, sink: int, most: int, *, flags: int) -> int:
        if stat.S_ISFIFO(os.fstat(sink).st_mode) is not into_pipe:
            return real(source, sink, most, flags=flags)
        refused.append(most)
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "splice", refuse)
    with ends() as two:
        sent = two.pour_down()
        assert two.drain(len(sent)) == sent
        assert two.relay.down.moved == len(sent)
        assert len(refused) == 1
        assert two.buffer.held == two.buffer.pipes.open_pipes == 0


def test_a_pipe_that_may_not_be_large_is_not_used(monkeypatch):
    """The user has as many as an ordinary user may have."""
    real, refused = fcntl.fcntl, []

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command != fcntl.F_SETPIPE_SZ:
            return real(descriptor, command, argument)
        refused.append(argument)
        raise PermissionError(errno.EPERM, "too many")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    files = open_files()
    with ends() as two:
        here = open_files()
        sent = two.pour_down()
        assert open_files() == here
        assert two.drain(len(sent)) == sent
        assert 0 < len(refused) <= 1 + len(sent) // splice.PAUSE_AFTER_REFUSAL
    assert open_files() == files


def test_without_a_descriptor_left_bytes_are_read_and_sent():
    with ends() as two, ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(400, open_files() + 10), hard))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(0))
        sent = two.pour_down()
        assert two.buffer.pipes.open_pipes == 0
        assert two.drain(len(sent)) == sent


# -- the pool -------------------------------------------------------------------------------------


def taken(pool: PipePool) -> list[splice.Pipe]:
    pipes = []
    while (pipe := pool.take()) is not None:
        pipes.append(pipe)
    return pipes


def test_a_process_has_few_pipes_and_a_pool_closes_what_is_not_in_use():
    pools = [PipePool(), PipePool()]
    for pool in pools:
        pool.join()
    pipes = taken(pools[0])
    assert len(pipes) == MAX_PIPES
    assert taken(pools[1]) == []
    for in_use, pipe in zip(reversed(range(MAX_PIPES)), pipes, strict=True):
        pools[0].give(pipe)
        assert in_use < pools[0].open_pipes <= 2 * in_use + 1
    assert pools[0].open_pipes == 1
    pools[0].leave()
    assert pools[0].open_pipes == 0


@pytest.mark.parametrize(
    ("files", "pipes"), [(128, 0), (1024, 4), (4096, 16), (1 << 20, 16), (-1, 16)]
)
def test_few_descriptors_mean_few_pipes(files, pipes):
    assert most_pipes(files) == pipes


def test_a_low_limit_of_open_files_means_few_pipes(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600, 600))
    pool = PipePool()
    pool.join()
    for pipe in (pipes := taken(pool)):
        pool.discard(pipe)
    pool.leave()
    assert len(pipes) == 2


def test_a_thousand_relays_leave_no_pipe_however_they_end(monkeypatch):
    monkeypatch.setattr(relaying, "BULK_AFTER", 0)
    buffer, files = RelayBuffer(), open_files()
    with ExitStack() as stack:
        open_ends: list[Ends] = []
        for number in range(1000):
            two = Ends(stack, buffer, unix_pair)
            open_ends.append(two)
            if number % 3:  # its end finds bytes in the pipe
                two.server.send(TEXT[:1000])
                two.near.sock.shutdown(socket.SHUT_WR) if number % 3 == 1 else two.client.close()
                with pytest.raises(SideFailed):
                    two.relay.down.pump()
            else:
                two.client.send(b"up")
                two.server.send(b"down")
                two.relay.up.pump()
                two.relay.down.pump()
            assert buffer.pipes.open_pipes <= MAX_PIPES
            if len(open_ends) == 30:
                for one in open_ends:
                    one.close()
                open_ends.clear()
                stack.close()
        for one in open_ends:
            one.close()
    assert buffer.held == buffer.pipes.open_pipes == 0
    assert open_files() == files


def test_a_relay_that_is_cancelled_at_an_await_keeps_no_pipe():
    async def cut(two: Ends, fault: AwaitFault) -> None:
        with trio.CancelScope() as scope:
            fault.cancel = scope.cancel
            fault.is_armed = True
            await exchange(two, TEXT[:1_000_000], TEXT, 100_000, "client")

    for at in range(15):
        fault = AwaitFault(at, lambda name: name.endswith("relay"))
        with ends() as two:
            trio.run(cut, two, fault, instruments=[fault])
        assert two.buffer.held == two.buffer.pipes.open_pipes == 0
        if not fault.has_fired:
            break
    assert at > 1, "no await came after the first one"


@pytest.mark.parametrize("at", range(8))
def test_an_interrupt_in_a_step_leaves_no_bytes_in_the_pool(monkeypatch, at):
    """The bytes had moved and were not counted, so the pipe is closed."""
    monkeypatch.setattr(relaying, "BULK_AFTER", 0)
    real, calls = os.splice, []

    def interrupted(*arguments: Any, **more: Any) -> int:
        moved = real(*arguments, **more)
        calls.append(moved)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(os, "splice", interrupted)
    buffer = RelayBuffer()
    buffer.pipes.join()
    with ends(buffer) as two:
        with suppress(KeyboardInterrupt):
            for _ in range(at + 1):
                two.server.send(b"x" * 1000)
                two.relay.down.pump()
        two.relay.release()
    pipes = taken(buffer.pipes)
    for pipe in pipes:
        with pytest.raises(BlockingIOError):
            os.read(pipe.read_end, 1)
        buffer.pipes.discard(pipe)
    buffer.pipes.leave()
    assert len(pipes) == MAX_PIPES
