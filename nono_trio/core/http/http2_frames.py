"""Splits the bytes of an HTTP/2 connection into frames, and bounds what its peer may send.

The library h2 parses the frames. This file sees each frame's header before that (RFC 9113 4.1).

Rules of this file:
- Only whole frames are handed on, a few at a time, so that one read can't hold the loop.
- GOAWAY is read here and not handed on: h2 ends the connection at once, and the open streams must
  still be answered (RFC 9113 6.8). PRIORITY and frames of unknown types are dropped.
- A frame that moves no request on costs one unit; so does one for a stream that is not open, which
  h2 finds. Units come back with time, and those for window updates also with each body frame that
  was sent. Resets come back with time alone: a stream that is opened and reset costs us more than
  the peer (CVE-2023-44487).
- A head is bounded by bytes and by frames, also before its last frame has come.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER: Final = 9  # bytes of a frame's header
MAX_FRAME: Final = 16 * 1024  # bytes of a frame's content; we never announce more
BATCH: Final = 64  # frames that are handed on at once: about 1 ms of work
MAX_CONTINUATIONS: Final = 16  # frames of one head after its first one
MAX_SETTINGS: Final = 32  # values in one SETTINGS frame; seven are defined
MAX_SETTINGS_FRAMES: Final = 100  # on one connection
# nghttp2 has the same bounds for resets. A browser that leaves a page resets a hundred streams.
BURST: Final = 1000.0
PER_SECOND: Final = 33.0

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
ENHANCE_YOUR_CALM: Final = 11

DATA: Final = 0
HEADERS: Final = 1
_RST_STREAM, _SETTINGS, _PUSH_PROMISE, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 3, 4, 5, 7, 8, 9
_PASSED: Final = frozenset({DATA, HEADERS, _RST_STREAM, _SETTINGS, 6, _WINDOW_UPDATE})
_ACK = _END_STREAM = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8


class Http2Fault(Exception):
    """The peer broke the protocol or a bound, so the connection ends. `code` is for GOAWAY;
    `reason` is one printable sentence without a full stop, and quotes no input."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameSplitter:
    """The frames of one peer. `is_client`: the peer is one, so its preface comes first.

    `max_block` is the most bytes of one compressed head.
    """

    def __init__(self, *, is_client: bool, max_block: int) -> None:
        self.going: int | None = None
        """The highest stream id of ours that the peer serves; None before its GOAWAY."""
        self._is_client = is_client
        self._max_block = max_block
        self._held = bytearray()
        self._preface = PREFACE if is_client else b""
        self._block: int | None = None
        self._block_bytes = 0
        self._block_frames = 0
        self._settings = 0
        self._has_begun = False
        self._units = self._resets = BURST
        self._resettable = 0
        self._refilled: float | None = None

    @property
    def in_head(self) -> bool:
        """True before the first frame has come, and from the first byte of a head to its last."""
        held = self._held
        if not self._has_begun or self._block is not None:
            return True
        return bool(held) and (len(held) < HEADER or held[3] == HEADERS)

    def add(self, data: bytes) -> None:
        """Add what was read; the caller reads no more before `take` has returned nothing."""
        self._held += data

    def earn(self) -> None:
        """Note that a frame with a body went to the peer, which answers with window updates."""
        self._units = min(BURST, self._units + 2)

    def may_be_reset(self) -> None:
        """Note that a stream was opened for a server, which may reset it."""
        self._resettable += 1

    def spend(self) -> None:
        """Count a frame that moves no request on. Raises Http2Fault."""
        self._units -= 1
        if self._units < 0:
            raise Http2Fault(ENHANCE_YOUR_CALM, "too many frames that carry nothing of a request")

    def take(self, now: float) -> bytes:
        """Return the next whole frames, at most BATCH; b"" if more bytes are needed.

        `now` is in seconds of a clock that does not go back. Raises Http2Fault.
        """
        self._refill(now)
        held, at, kept = self._held, 0, list[bytes]()
        if self._preface:
            if not self._preface.startswith(held[: len(self._preface)]):
                raise Http2Fault(PROTOCOL_ERROR, "expected the preface of HTTP/2")
            if len(held) < len(self._preface):
                return b""
            at = len(self._preface)
            kept.append(self._preface)
            self._preface = b""
        for _ in range(BATCH):
            if len(held) - at < HEADER:
                break
            length = int.from_bytes(held[at : at + 3], "big")
            if length > MAX_FRAME:
                raise Http2Fault(FRAME_SIZE_ERROR, f"a frame is longer than {MAX_FRAME} bytes")
            end = at + HEADER + length
            if len(held) < end:
                break
            frame = bytes(held[at:end])
            if self._is_passed(frame):
                kept.append(frame)
            at = end
        del held[:at]
        if at and not kept:
            return self.take(now) if len(held) >= HEADER else b""
        return b"".join(kept)

    def _refill(self, now: float) -> None:
        if self._refilled is not None:
            more = (now - self._refilled) * PER_SECOND
            self._units = min(BURST, self._units + more)
            self._resets = min(BURST, self._resets + more)
        self._refilled = now

    def _is_passed(self, frame: bytes) -> bool:
        """Count a frame; return whether h2 gets it. Raises Http2Fault."""
        kind, flags = frame[3], frame[4]
        stream = int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF
        if not self._has_begun and (kind != _SETTINGS or flags & _ACK):
            raise Http2Fault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._has_begun = True
        if self._block is not None:
            self._continue_block(kind, flags, stream, len(frame) - HEADER)
            return True
        if kind == _CONTINUATION:
            raise Http2Fault(PROTOCOL_ERROR, "a CONTINUATION frame continues no head")
        if kind == _PUSH_PROMISE:
            raise Http2Fault(PROTOCOL_ERROR, "a push came, though the settings refuse it")
        if kind == HEADERS:
            self._begin_block(flags, stream, len(frame) - HEADER)
        elif kind == _RST_STREAM:
            self._count_reset()
        elif kind != DATA:
            self.spend()
            if kind == _SETTINGS and not flags & _ACK:
                self._count_settings(len(frame) - HEADER)
            elif kind == _GOAWAY:
                self._note_goaway(frame)
        elif _is_empty(frame) and not flags & _END_STREAM:
            self.spend()
        return kind in _PASSED

    def _begin_block(self, flags: int, stream: int, length: int) -> None:
        self._block_bytes, self._block_frames = length, 0
        if not flags & _END_HEADERS:
            self._block = stream
        self._check_block()

    def _continue_block(self, kind: int, flags: int, stream: int, length: int) -> None:
        if kind != _CONTINUATION or stream != self._block:
            raise Http2Fault(PROTOCOL_ERROR, "another frame stands between those of a head")
        self._block_bytes += length
        self._block_frames += 1
        self._check_block()
        if flags & _END_HEADERS:
            self._block = None

    def _check_block(self) -> None:
        if self._block_bytes > self._max_block or self._block_frames > MAX_CONTINUATIONS:
            raise Http2Fault(
                ENHANCE_YOUR_CALM,
                f"a head is longer than {self._max_block} bytes or {MAX_CONTINUATIONS + 1} frames",
            )

    def _count_reset(self) -> None:
        if self._is_client:
            self._resets -= 1
            if self._resets < 0:
                reason = "streams are reset faster than they can be served"
                raise Http2Fault(ENHANCE_YOUR_CALM, reason)
        elif self._resettable:  # a server may reset as many streams as were opened
            self._resettable -= 1
        else:
            self.spend()

    def _count_settings(self, length: int) -> None:
        self._settings += 1
        if self._settings > MAX_SETTINGS_FRAMES or length > 6 * MAX_SETTINGS:
            raise Http2Fault(ENHANCE_YOUR_CALM, "too many settings")

    def _note_goaway(self, frame: bytes) -> None:
        if len(frame) < HEADER + 8:
            raise Http2Fault(FRAME_SIZE_ERROR, "a GOAWAY frame is too short")
        last = int.from_bytes(frame[HEADER : HEADER + 4], "big") & 0x7FFFFFFF
        self.going = last if self.going is None else min(last, self.going)


def _is_empty(frame: bytes) -> bool:
    """Return whether a DATA frame has nothing but padding."""
    content = len(frame) - HEADER
    if frame[4] & _PADDED and content:
        return content - 1 - frame[HEADER] <= 0
    return content == 0


def goaway(last_stream: int, code: int) -> bytes:
    """The bytes of a GOAWAY frame."""
    content = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")
    return len(content).to_bytes(3, "big") + bytes([_GOAWAY, 0]) + bytes(4) + content
