"""Bytes through a pipe of the kernel: the same bytes, counts and ends as by reading and sending."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from origin import tls_context
from relay_ends import (
    RESET,
    TEXT,
    ends,
    exchange,
    in_flight,
    read_all,
    splice_at_once,
    wait_until,
)  # fmt: skip
from running_proxy import BOUND

from nono_trio.proxy.limits import BULK_AFTER, PIPE_BYTES, TURN_BYTES
from nono_trio.proxy.transport import relay as relaying
from nono_trio.proxy.transport import splice
from nono_trio.proxy.transport.relay import MORE
from nono_trio.proxy.transport.splice import splice_between
from nono_trio.proxy.transport.tls import TlsTransport
from nono_trio.proxy.transport.transport import SideFailed

pytestmark = pytest.mark.skipif(not splice.HAS_SPLICE, reason="splice(2) is Linux's")


# -- the same as without --------------------------------------------------------------------------


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
        two.relay.down.pump(TURN_BYTES)
        assert two.buffer.pipes.open_pipes == 0
        two.pour_down()
        assert two.relay.down.moved > BULK_AFTER
        assert two.buffer.pipes.open_pipes == 1
    assert two.buffer.pipes.open_pipes == 0


def test_small_pieces_are_read_and_sent_although_many_came_before(monkeypatch):
    """Two system calls a piece. A large one is spliced again."""
    real, calls = os.splice, []

    def counting(*arguments: int, flags: int) -> int:
        calls.append(arguments)
        return real(*arguments, flags=flags)

    def pass_on(piece: bytes) -> None:
        two.server.send(piece)
        assert two.drain(len(piece)) == piece

    with ends() as two:
        sent = two.pour_down()
        assert two.drain(len(sent)) == sent
        monkeypatch.setattr(os, "splice", counting)
        pass_on(b"the first one")
        del calls[:]
        for _ in range(5):
            pass_on(b"x" * 1000)
        assert calls == []
        sent = two.pour_down()
        assert two.drain(len(sent)) == sent
        assert calls


def test_a_turn_moves_no_more_than_other_tasks_may_be_kept_waiting_for(monkeypatch):
    splice_at_once(monkeypatch)
    with ends() as two:
        sent = two.server.send(TEXT[:200_000])
        turns = []
        while sum(turns) < sent:
            before = two.relay.down.moved
            may_have_more = two.relay.down.pump(50_000) == MORE
            turns.append(two.relay.down.moved - before)
            assert may_have_more or turns[-1] < 50_000
        assert max(turns) == 50_000


async def test_a_relay_that_moves_much_at_a_time_leaves_the_steps_of_the_dispatcher():
    with ends() as two:
        steps = two.readiness.steps
        async with trio.open_nursery() as nursery:
            steps.start(two.relay.run(two.waker.sleep_while), nursery)
            two.server.send(TEXT[:1000])
            wait_until(lambda: in_flight(two) > 0)
            two.waker.wake()
            steps.run_due()
            assert len(steps) == 1

            def has_left() -> bool:  # the kernel may pass on less than was sent at first
                with suppress(BlockingIOError):
                    two.server.send(TEXT[:500_000])
                read_all(two.client)
                two.waker.wake()
                steps.run_due()
                return len(steps) == 0

            wait_until(has_left)
            nursery.cancel_scope.cancel()


def test_urgent_data_neither_ends_a_stream_nor_stalls_it(monkeypatch):
    """splice(2) stops before it; at the end it even returns 0. A read leaves it out."""
    splice_at_once(monkeypatch)
    with ends() as two:
        two.drain(len(two.pour_down()))
        before = two.relay.down.moved
        two.server.send(b"before")
        two.server.send(b"!", socket.MSG_OOB)
        two.server.send(b"after")
        two.server.shutdown(socket.SHUT_WR)
        two.far.ending = True
        assert two.drain(len(b"beforeafter")) == b"beforeafter"
        wait_until(lambda: two.relay.down.pump(TURN_BYTES) == MORE or two.relay.down.done)
        assert two.relay.down.moved - before == len(b"beforeafter")


def test_what_must_be_seen_is_not_spliced(monkeypatch):
    """A hello that is followed, and a sieve."""
    splice_at_once(monkeypatch)
    seen = bytearray()

    class Sieve:
        unrecorded = ()

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
        two.relay.down.put_through(Sieve())
        for piece in (b"one", b"two", b"three"):
            two.client.send(piece)
            wait_until(lambda: two.relay.up.pump(TURN_BYTES) == MORE or in_flight(two) == 0)
        for piece in (b"four", b"five"):
            two.server.send(piece)
            wait_until(lambda: two.relay.down.pump(TURN_BYTES) == MORE or in_flight(two) == 0)
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
        for _ in range(20):
            two.relay.down.pump(TURN_BYTES)
        assert 0 < two.buffer.held <= PIPE_BYTES
        assert in_flight(two) > 0, "the relay takes bytes that it can't send"
        assert two.drain(len(sent)) == sent
        assert two.relay.down.moved == len(sent)
        assert two.buffer.held == 0


async def test_a_task_is_woken_each_time_that_a_full_sink_takes_bytes_again(monkeypatch):
    splice_at_once(monkeypatch)  # else the sink may have been full before, for a send
    with ends() as two:
        sent, got = two.pour_down(), bytearray()

        async def read() -> None:
            while len(got) < len(sent):
                await trio.lowlevel.wait_readable(two.client)
                got.extend(read_all(two.client))

        async with trio.open_nursery() as reporting:
            reporting.start_soon(two.readiness.dispatch)
            with trio.fail_after(BOUND):
                async with trio.open_nursery() as reading:
                    reading.start_soon(read)
                    # The pipe holds many times what the sink takes at once, so its last bytes go
                    # out only after wakes that the sink alone gives.
                    while two.relay.down.moved < len(sent):
                        await two.waker.sleep()
                        two.relay.down.pump(TURN_BYTES)
            reporting.cancel_scope.cancel()
        assert got == sent


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
            wait_until(lambda: down.pump(TURN_BYTES) == MORE)
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
            down.pump(TURN_BYTES)
            return False

        with pytest.raises(SideFailed) as failed:
            wait_until(fails)
        assert (failed.value.side, failed.value.errno) == ("upstream", errno.ECONNRESET)
        assert down.moved >= taken_so_far
        wait_until(lambda: got.extend(read_all(two.client)) or len(got) == down.moved)
        assert two.buffer.held == 0
