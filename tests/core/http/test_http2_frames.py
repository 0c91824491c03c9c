"""Frames are split and counted the same way, however their bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.http2_frames import (
    BATCH,
    ENHANCE_YOUR_CALM,
    MAX_FRAME,
    PREFACE,
    PROTOCOL_ERROR,
    FrameSplitter,
    Http2Fault,
    goaway,
)


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return (
        len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
    )


SETTINGS = frame(4, 0, 0)
GOOD = [
    frame(1, 4, 1, b"\x82"), frame(0, 0, 1, b"body"), frame(0, 1, 1), frame(1, 0, 3, b"a"),
    frame(9, 0, 3, b"b"), frame(9, 4, 3, b"c"), frame(3, 0, 3, bytes(4)), frame(6, 0, 0, bytes(8)),
    frame(8, 0, 0, bytes(4)), frame(0, 8, 1, b"\x01x\x00"),
]  # fmt: skip
DROPPED = [frame(2, 0, 1, bytes(5)), frame(0xBE, 0, 0, b"x"), goaway(5, 0)]


def splitter(*, is_client: bool = True) -> FrameSplitter:
    return FrameSplitter(is_client=is_client, max_block=1000)


def split(data: bytes, *cuts: int) -> tuple[bytes, FrameSplitter]:
    found, kept = splitter(), b""
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        found.add(data[start:end])
        while taken := found.take(0.0):
            kept += taken
    return kept, found


@given(st.data())
def test_what_is_handed_on_does_not_depend_on_how_the_bytes_come(data):
    heads = [GOOD[3] + GOOD[4] + GOOD[5]]
    plain = [one for index, one in enumerate(GOOD) if index not in (3, 4, 5)]
    chosen = data.draw(st.lists(st.sampled_from([*plain, *heads, *DROPPED]), max_size=40))
    whole = PREFACE + SETTINGS + b"".join(chosen)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=30)))
    kept, found = split(whole, *cuts)
    assert kept == PREFACE + SETTINGS + b"".join(one for one in chosen if one not in DROPPED)
    assert found.going == (5 if DROPPED[2] in chosen else None)
    assert not found.in_head


def test_byte_by_byte_and_with_an_open_head():
    whole = PREFACE + SETTINGS + b"".join(GOOD)
    assert split(whole, *range(1, len(whole)))[0] == whole
    for end in range(len(PREFACE + SETTINGS)):
        assert split(whole[:end])[1].in_head
    assert split(PREFACE + SETTINGS + GOOD[3])[1].in_head
    assert split(PREFACE + SETTINGS + GOOD[3][:9])[1].in_head
    assert not split(PREFACE + SETTINGS + frame(0, 0, 1, b"body")[:11])[1].in_head


def test_a_batch_is_bounded():
    found = splitter(is_client=False)
    found.add(SETTINGS + frame(0, 0, 1, b"x") * 1000)
    assert len(found.take(0.0)) == len(SETTINGS) + (BATCH - 1) * 10


def test_the_longest_frame_is_taken_and_a_longer_one_is_not():
    assert len(split(PREFACE + SETTINGS + frame(0, 0, 1, bytes(MAX_FRAME)))[0]) > MAX_FRAME
    with pytest.raises(Http2Fault):
        split(PREFACE + SETTINGS + frame(0, 0, 1, bytes(MAX_FRAME + 1))[:9])


@pytest.mark.parametrize(
    ("kind", "one"),
    [("ping", frame(6, 0, 0, bytes(8))), ("reset", frame(3, 0, 1, bytes(4))),
     ("empty", frame(0, 0, 1)), ("padding", frame(0, 8, 1, b"\x02\x00\x00"))],
)  # fmt: skip
def test_units_come_back_with_time(kind, one):
    found = splitter()
    found.add(PREFACE + SETTINGS + one * 999)
    while found.take(0.0):
        pass
    found.add(one * 300)
    while found.take(10.0):
        pass
    found.add(one * 3000)
    with pytest.raises(Http2Fault) as raised:
        all(iter(lambda: found.take(10.0), b""))
    assert raised.value.code == ENHANCE_YOUR_CALM, kind


def test_window_updates_that_answer_body_frames_cost_nothing():
    found = splitter()
    found.add(PREFACE + SETTINGS)
    found.take(0.0)
    for _ in range(5000):
        found.earn()
        found.add(frame(8, 0, 1, b"\0\0\0\1") * 2)
        found.take(0.0)


def test_a_server_may_reset_as_many_streams_as_were_opened():
    found = splitter(is_client=False)
    for _ in range(5000):
        found.may_be_reset()
    found.add(SETTINGS + frame(3, 0, 1, bytes(4)) * 5000)
    while found.take(0.0):
        pass
    found.add(frame(3, 0, 1, bytes(4)) * 1001)
    with pytest.raises(Http2Fault):
        all(iter(lambda: found.take(0.0), b""))


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1", PREFACE[:23] + b"x"]
)
def test_another_preface_is_refused_as_soon_as_it_differs(data):
    with pytest.raises(Http2Fault) as raised:
        split(data)
    assert raised.value.code == PROTOCOL_ERROR


def test_the_lower_goaway_counts():
    found = split(PREFACE + SETTINGS + goaway(2**31 - 1, 0) + goaway(7, 0) + goaway(9, 0))[1]
    assert found.going == 7
    with pytest.raises(Http2Fault):
        split(PREFACE + SETTINGS + frame(7, 0, 0, bytes(7)))
