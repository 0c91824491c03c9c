"""The pipes of tunnels: few, empty when they return to the pool, and left out where one fails."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import trio
from await_faults import AwaitFault
from relay_ends import (
    TEXT,
    Ends,
    ends,
    exchange,
    open_files,
    splice_at_once,
    unix_pair,
)  # fmt: skip

from nono_trio.proxy.limits import MAX_PIPES, TURN_BYTES, most_pipes
from nono_trio.proxy.transport import splice
from nono_trio.proxy.transport.relay import RelayBuffer
from nono_trio.proxy.transport.splice import PipePool
from nono_trio.proxy.transport.transport import SideFailed

pytestmark = pytest.mark.skipif(not splice.HAS_SPLICE, reason="splice(2) is Linux's")


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
    splice_at_once(monkeypatch)
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
                    two.relay.down.pump(TURN_BYTES)
            else:
                two.client.send(b"up")
                two.server.send(b"down")
                two.relay.up.pump(TURN_BYTES)
                two.relay.down.pump(TURN_BYTES)
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
    splice_at_once(monkeypatch)
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
                two.relay.down.pump(TURN_BYTES)
        two.relay.release()
    pipes = taken(buffer.pipes)
    for pipe in pipes:
        with pytest.raises(BlockingIOError):
            os.read(pipe.read_end, 1)
        buffer.pipes.discard(pipe)
    buffer.pipes.leave()
    assert len(pipes) == MAX_PIPES
