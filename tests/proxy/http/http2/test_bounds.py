"""Bounds of what one peer of an HTTP/2 connection can have us hold, without sockets."""

from __future__ import annotations

import sys
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.http2_frames import ENHANCE_YOUR_CALM, Http2Fault
from nono_trio.proxy.http.http2.bodies import Body
from nono_trio.proxy.http.http2.peer import MAX_UNSENT, Http2Peer
from nono_trio.proxy.transport.relay import RelayBuffer
from nono_trio.proxy.transport.transport import Transport

HEAD = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]


class NeverReading:
    """A connection whose peer sends what is queued, and reads nothing."""

    readable = True

    def __init__(self, *queued: bytes) -> None:
        self.queued = list(queued)

    def try_receive(self, most: int) -> bytes | None:
        return self.queued.pop(0) if self.queued else None

    def try_send(self, data: bytes) -> int:
        return 0


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return (
        len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
    )


RESET = frame(3, 0, 1, (8).to_bytes(4, "big"))
CLOSED = {"heads": frame(1, 4, 1, b"\x88"), "bodies": frame(0, 0, 1, b"x"), "resets": RESET}


def a_server(*queued: bytes) -> Http2Peer:
    """A server with an open request, which sends what is queued."""
    peer = Http2Peer(cast("Transport", NeverReading(frame(4, 0, 0))), is_client=False)
    peer.receive(0.0)
    assert peer.open_stream(HEAD, ended=True) == 1
    cast("NeverReading", peer.transport).queued += queued
    return peer


def read_all(peer: Http2Peer) -> int:
    count = 0
    while (events := peer.receive(0.0)) is not None:
        count += len(events)
        peer.flush()
    return count


@pytest.mark.parametrize("kind", CLOSED)
def test_frames_for_a_stream_that_was_reset_are_bounded(kind):
    peer = a_server(RESET, *[CLOSED[kind] * 500] * 4)
    with pytest.raises(Http2Fault) as raised:
        read_all(peer)
    assert raised.value.code == ENHANCE_YOUR_CALM
    assert peer.unsent < 20_000


def test_what_was_on_its_way_when_we_reset_a_stream_costs_no_connection():
    peer = a_server(frame(1, 4, 1, b"\x88"), CLOSED["bodies"] * 1500)
    peer.receive(0.0)
    peer.reset_stream(1, 8)
    cast("NeverReading", peer.transport).queued[:] = [CLOSED["bodies"] * 600, RESET]
    read_all(peer)
    assert peer.open_stream(HEAD, ended=True) == 3


def test_nothing_is_read_from_a_server_that_does_not_read():
    peer = a_server(frame(1, 4, 1, b"\x88") * 2)
    while peer.unsent <= MAX_UNSENT:
        peer.open_stream([*HEAD, (b"x-%d" % peer.unsent, bytes(16_000))], ended=True)
        peer.flush()
    assert peer.receive(0.0) is None
    assert cast("NeverReading", peer.transport).queued


def test_small_pieces_cost_little_more_than_their_bytes():
    body = Body(RelayBuffer())
    for _ in range(32 * 1024):
        body.add(b"ab")
    cost = sum(sys.getsizeof(piece) for piece in body.pieces)
    assert cost < 2 * body.held == 2 * 64 * 1024
    mixed = Body(RelayBuffer())
    for _ in range(100):
        mixed.add(b"a")
        mixed.add(bytes(4096))
    assert len(mixed.pieces) <= 100


@given(st.lists(st.sampled_from([1, 2, 100, 4095, 4096, 16384])), st.integers(1, 20_000))
def test_a_body_comes_out_as_it_went_in(sizes, most):
    buffer = RelayBuffer()
    body = Body(buffer)
    sent = b"".join(bytes([index % 256]) * size for index, size in enumerate(sizes))
    at = 0
    for size in sizes:
        body.add(sent[at : at + size])
        at += size
    taken = list(iter(lambda: body.take(most), b""))
    assert b"".join(taken) == sent
    assert all(type(one) is bytes and len(one) <= most for one in taken)
    assert body.held == buffer.held == 0
