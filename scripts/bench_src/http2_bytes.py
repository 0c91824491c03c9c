"""The few bytes of HTTP/2 that the benchmark's own client and server need (RFC 9113, RFC 7541).

Rules of this file: no state beyond what is given. Both ends send the same fields again and again,
so each names them by literals once and by the index of its table afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER: Final = 9  # bytes of a frame's header
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 0x1
END_HEADERS: Final = 0x4
LARGE_WINDOW: Final = (1 << 30).to_bytes(4, "big")
_WINDOW_UPDATE: Final = 8
_FIRST_OF_TABLE: Final = 62  # the index of the field that was added last
_STATUS_200, _GET, _HTTPS = 0x88, 0x82, 0x87


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """One frame."""
    head = len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + content


def greeting(*, is_client: bool) -> bytes:
    """The first bytes of an end: its settings, and a window that never gets empty."""
    window = frame(_WINDOW_UPDATE, 0, 0, LARGE_WINDOW)
    return (PREFACE if is_client else b"") + frame(SETTINGS, 0, 0) + window


def frames(held: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Take whole frames from `held`: type, flags, stream, content."""
    at = 0
    while len(held) - at >= HEADER:
        end = at + HEADER + int.from_bytes(held[at : at + 3], "big")
        if len(held) < end:
            break
        stream = int.from_bytes(held[at + 5 : at + HEADER], "big")
        yield held[at + 3], held[at + 4], stream, bytes(held[at + HEADER : end])
        at = end
    del held[:at]


class Block:
    """A head that is sent again and again: `indexed` are indices of the static table."""

    def __init__(self, indexed: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        literals = (b"\x40" + _text(name) + _text(value) for name, value in fields)
        last = _FIRST_OF_TABLE + len(fields) - 1
        self._first = indexed + b"".join(literals)
        self._again = indexed + bytes(0x80 | (last - at) for at in range(len(fields)))
        self._is_known = False

    def next(self) -> bytes:
        """Return the block for one more head of the connection."""
        if self._is_known:
            return self._again
        self._is_known = True
        return self._first


def request_block(authority: str, path: str) -> Block:
    """The head of a GET with the fields that programs send."""
    fields = [
        (b":path", path.encode()), (b":authority", authority.encode()),
        (b"user-agent", b"bench/1"), (b"accept", b"*/*"), (b"accept-encoding", b"gzip, deflate"),
    ]  # fmt: skip
    return Block(bytes([_GET, _HTTPS]), fields)


def response_block(length: int) -> Block:
    """The head of a 200 with a body of `length` bytes."""
    fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    return Block(bytes([_STATUS_200]), fields)


def _text(data: bytes) -> bytes:
    if len(data) > 126:
        raise ValueError("a longer text needs more than one byte for its length")
    return bytes([len(data)]) + data
