"""The frames of a WebSocket client: read the same however they are cut, refused if not plain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.http.websocket_frames import BadFrame, FrameReader, Piece, unmasked

MASK = b"\x12\x00\xfe\x7f"


def frame(payload: bytes, opcode: int, *, fin: bool = True) -> bytes:
    size = len(payload)
    if size >= 1 << 16:
        length = b"\xff" + size.to_bytes(8, "big")
    elif size > 125:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | size])
    return bytes([0x80 * fin | opcode]) + length + MASK + unmasked(payload, MASK)


payloads = st.binary(max_size=300) | st.just(b"x" * 70_000)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[tuple[bool, bytes]]]:
    """The bytes of some messages in fragments, with control frames between, and their payloads."""
    raw, meant = b"", list[tuple[bool, bytes]]()
    for parts in draw(st.lists(st.lists(payloads, min_size=1, max_size=3), max_size=4)):
        for number, part in enumerate(parts):
            opcode = 0 if number else draw(st.sampled_from([1, 2]))
            raw += frame(part, opcode, fin=number == len(parts) - 1)
            if draw(st.booleans()):
                control = draw(st.binary(max_size=125))
                raw += frame(control, draw(st.sampled_from([8, 9, 10])))
                meant.append((True, control))
        meant.append((False, b"".join(parts)))
    return raw, meant


def gathered(pieces: list[Piece]) -> list[tuple[bool, bytes]]:
    found, message = list[tuple[bool, bytes]](), b""
    for piece in pieces:
        if piece.is_control:
            found.append((True, piece.payload))
            continue
        message += piece.payload
        if piece.ends_message:
            found.append((False, message))
            message = b""
    return found


@given(messages(), st.data())
def test_the_cuts_change_nothing(some, data) -> None:
    raw, meant = some
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    reader = FrameReader()
    pieces = [
        piece
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)
        for piece in reader.read(raw[start:end])
    ]
    assert b"".join(piece.raw for piece in pieces) == raw
    # A control frame after the last fragment of a message comes after it.
    found = gathered(pieces)
    assert sorted(found) == sorted(meant)
    assert [one for is_control, one in found if not is_control] == [
        one for is_control, one in meant if not is_control
    ]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x81\x05hello", "is not masked"),
        (b"\xc1\x80" + MASK, "has bits of an extension"),
        (b"\x91\x80" + MASK, "has bits of an extension"),
        (b"\x83\x80" + MASK, "has an unknown opcode"),
        (b"\x80\x80" + MASK, "is not in the order"),
        (frame(b"a", 1, fin=False) + frame(b"b", 1), "is not in the order"),
        (frame(b"a", 9, fin=False), "is a control frame"),
        (b"\x89\xfe\x00\x7e" + MASK, "is a control frame"),
        (b"\x81\xfe\x00\x7d" + MASK, "has a length"),
        (b"\x81\xff" + (65535).to_bytes(8, "big") + MASK, "has a length"),
        (b"\x81\xff" + b"\x80" + bytes(7) + MASK, "has a length"),
    ],
)
def test_a_frame_that_may_be_read_in_another_way_is_refused(raw: bytes, reason: str) -> None:
    for step in (1, len(raw)):
        with pytest.raises(BadFrame) as found:
            read_all(raw, step)
        assert reason in found.value.reason


def read_all(raw: bytes, step: int) -> list[Piece]:
    reader = FrameReader()
    return [
        piece
        for start in range(0, len(raw), step)
        for piece in reader.read(raw[start : start + step])
    ]
