"""Reads the frames that a WebSocket client sends (RFC 6455 5.2), piece by piece.

Rules of this file:
- A frame has no extension's bits, is masked, has a known opcode, and its length in the shortest
  form. Fragments are in order. A client that sends another frame would have its server read what we
  can't.
- The payload of a data frame is returned as it comes. A control frame is returned whole.
- What is kept is less than one control frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTINUATION: Final = 0
_DATA: Final = frozenset({1, 2})  # text and binary
_CONTROL: Final = frozenset({8, 9, 10})
_MAX_CONTROL: Final = 125  # bytes
_FIN: Final = 0x80
_EXTENSION_BITS: Final = 0x70
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_LENGTH_BYTES: Final = {126: (2, 126), 127: (8, 1 << 16)}  # with the least length so written
_MAX_LENGTH: Final = (1 << 63) - 1


class BadFrame(Exception):
    """A frame that must not be sent. `reason` completes "the WebSocket frame"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Piece(NamedTuple):
    """Bytes as they came, and what they mean without the mask; a head means nothing.

    `ends_message`: these are the last bytes of a message.
    """

    raw: bytes
    payload: bytes
    is_control: bool = False
    ends_message: bool = False


class FrameReader:
    """Reads the frames of one client."""

    def __init__(self) -> None:
        self._kept = b""
        self._left = 0  # bytes of payload that are to come
        self._mask = b""
        self._at = 0
        self._is_last = False
        self._is_open = False  # a message has begun and not ended

    def read(self, data: bytes) -> Iterator[Piece]:
        """Yield the pieces of what came. Raises BadFrame, after which nothing may be read."""
        data = self._kept + data
        self._kept = b""
        at = 0
        while at < len(data):
            if self._left:
                raw = data[at : at + self._left]
                at += len(raw)
                yield self._payload(raw)
                continue
            size = _head_size(data, at)
            if size is None or len(data) - at < size:
                self._kept = data[at:]
                return
            is_control = data[at] & 0x0F in _CONTROL
            length = self._check(data[at : at + size])
            if is_control:
                end = at + size + length
                if end > len(data):
                    self._kept = data[at:]
                    return
                mask = data[at + size - _MASK_BYTES : at + size]
                yield Piece(data[at:end], unmasked(data[at + size : end], mask), is_control=True)
                at = end
                continue
            head = data[at : at + size]
            self._begin(head, length)
            at += size
            yield Piece(head, b"", ends_message=self._is_last and not length)

    def _payload(self, raw: bytes) -> Piece:
        shift = self._at % _MASK_BYTES
        self._at += len(raw)
        self._left -= len(raw)
        mask = self._mask[shift:] + self._mask[:shift]
        return Piece(raw, unmasked(raw, mask), ends_message=self._is_last and not self._left)

    def _begin(self, head: bytes, length: int) -> None:
        """Begin a data frame."""
        is_continuation = head[0] & 0x0F == CONTINUATION
        if is_continuation != self._is_open:
            raise BadFrame("is not in the order of its message")
        self._is_last = bool(head[0] & _FIN)
        self._is_open = not self._is_last
        self._mask, self._at, self._left = head[-_MASK_BYTES:], 0, length

    def _check(self, head: bytes) -> int:
        """Return the length of the payload. Raises BadFrame."""
        opcode = head[0] & 0x0F
        if head[0] & _EXTENSION_BITS:
            raise BadFrame("has bits of an extension, and none was offered")
        if opcode != CONTINUATION and opcode not in _DATA and opcode not in _CONTROL:
            raise BadFrame("has an unknown opcode")
        length = head[1] & 0x7F
        if opcode in _CONTROL and (length > _MAX_CONTROL or not head[0] & _FIN):
            raise BadFrame("is a control frame that is too long, or in parts")
        if length in _LENGTH_BYTES:
            count, least = _LENGTH_BYTES[length]
            length = int.from_bytes(head[2 : 2 + count], "big")
            if not least <= length <= _MAX_LENGTH:
                raise BadFrame("has a length that is not in its shortest form")
        return length


def unmasked(data: bytes, mask: bytes) -> bytes:
    """Return the payload behind a mask of 4 bytes; the same again masks it."""
    size = len(data)
    key = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def _head_size(data: bytes, at: int) -> int | None:
    """Return the bytes of a frame's head; None if that is not known yet. Raises BadFrame."""
    if len(data) - at < 2:
        return None
    if not data[at + 1] & _MASKED:
        raise BadFrame("is not masked")
    count, _ = _LENGTH_BYTES.get(data[at + 1] & 0x7F, (0, 0))
    return 2 + count + _MASK_BYTES
