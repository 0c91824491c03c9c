"""Reads chunked bodies (RFC 9112 7.1), and refuses what two parsers could read differently.

Many parsers are lenient with sizes of 20 hex digits, space after a size, a bare CR in a chunk
extension and framing fields in trailers. All of these are refused here. Chunk extensions are
checked and dropped, which RFC 9112 7.1.1 allows. Property tests and a fuzzer hold that h11 finds
the same data, trailers and end of every body that is accepted here.

Rules of this file: data is returned piece by piece and never gathered. Bytes after the end belong
to the next message. Only a started line and the trailers, both of bounded length, are kept between
calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.http.trailers import (
    MAX_TRAILER_FIELDS,
    MAX_TRAILERS,
    REASON,
    is_forbidden,
)
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field

MAX_CHUNK_LINE: Final = 1024  # bytes; a size has 16, signatures in extensions about 100
MAX_EXCESS: Final = 16 * 1024  # bytes of framing beyond what the data justifies (CVE-2023-39326)
FREE_LINE: Final = 16  # bytes of framing that each chunk may cost; Go's net/http counts the same
MAX_LINES: Final = 256  # at once; a read full of chunks of one byte would hold the loop for 0.1 s

MAX_PLAIN: Final = 128  # whole chunks at once; they cost less than as many lines

_PLAIN_SIZE = late_pattern(rb"([0-9A-Fa-f]{1,8})\r\n")
_SIZE_LINE = late_pattern(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_STARTED_SIZE_LINE = late_pattern(rb"[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?")
_TRAILER = late_pattern(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\r\n")
_STARTED_TRAILER = late_pattern(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*(?::[\t\x20-\x7e\x80-\xff]*)?\r?")


class BadBody(Exception):
    """Framing that can be read in two ways. `reason` is printable and quotes no input."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ChunkedBody:
    """A chunked body with its trailers; a `Body` (core/http/body.py).

    `trailers` has them in their order and case once the body is `done`.
    """

    def __init__(self) -> None:
        self.done = False
        self.trailers: tuple[Field, ...] = ()
        self._data_left = 0
        self._line = b""
        self._parse = ChunkedBody._size_line  # unbound: no cycle that outlives the connection
        self._started = _STARTED_SIZE_LINE
        self._excess = 0
        self._trailers: list[Field] = []
        self._trailer_bytes = 0

    def read(self, raw: bytes) -> tuple[bytes, int]:
        """As `Body.read`. The data and the end do not depend on how the bytes were split."""
        pieces, at = self._read_plain(raw)
        if len(pieces) < MAX_PLAIN:
            at = self._read_lines(raw, at, pieces)
        return b"".join(pieces), at

    def _read_plain(self, raw: bytes) -> tuple[list[bytes], int]:
        """Read the whole chunks without extensions at the front of `raw`, at most MAX_PLAIN, if a
        chunk begins there: events of a language model come so. Return their data, and how many
        bytes they were. `_read_lines` reads all else, the last chunk too.
        """
        pieces, at = list[bytes](), 0
        if self._data_left or self._line or self._started is not _STARTED_SIZE_LINE:
            return pieces, at
        framing = 0
        while len(pieces) < MAX_PLAIN and (match := _PLAIN_SIZE.match(raw, at)):
            begins = match.end()
            ends = begins + int(match[1], 16)
            if ends == begins or raw[ends : ends + 2] != b"\r\n":
                break
            pieces.append(raw[begins:ends])
            framing += begins - at
            at = ends + 2
        if self._excess:
            free = FREE_LINE * len(pieces) + 2 * sum(map(len, pieces))
            self._excess = max(0, self._excess + framing - free)
        return pieces, at

    def _read_lines(self, raw: bytes, at: int, pieces: list[bytes]) -> int:
        """Read lines and data from index `at` on, add the data to `pieces`; return the index after
        what was read."""
        lines = 0
        while at < len(raw) and not self.done and lines < MAX_LINES:
            if self._data_left:
                data = raw[at : at + self._data_left]
                pieces.append(data)
                self._data_left -= len(data)
                at += len(data)
            else:
                at = self._take_line(raw, at)
                lines += 1
        return at

    def _take_line(self, raw: bytes, at: int) -> int:
        """Complete or lengthen the line that starts at `at`; return the index of its end."""
        room = MAX_CHUNK_LINE - len(self._line)
        end = raw.find(b"\n", at, at + room) + 1
        piece = raw[at : end or at + room]
        self._line += piece
        if end:
            line, self._line = self._line, b""
            self._parse(self, line)
        elif len(self._line) >= MAX_CHUNK_LINE:
            raise BadBody(f"a line of the chunked body is longer than {MAX_CHUNK_LINE} bytes")
        elif not self._started.fullmatch(self._line):
            raise BadBody("the chunked body is malformed")
        return at + len(piece)

    def _size_line(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadBody("a chunk size is malformed")
        size = int(match[1], 16)
        self._excess = max(0, self._excess + len(line) - FREE_LINE - 2 * size)
        if self._excess > MAX_EXCESS:
            raise BadBody("the chunked body has more framing than data")
        if size:
            self._data_left = size
            self._parse, self._started = ChunkedBody._data_end, _CR_OR_NOTHING
        else:
            self._parse, self._started = ChunkedBody._trailer_line, _STARTED_TRAILER

    def _data_end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise BadBody("a chunk is longer than its size")
        self._parse, self._started = ChunkedBody._size_line, _STARTED_SIZE_LINE

    def _trailer_line(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done, self.trailers = True, tuple(self._trailers)
            return
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise BadBody("a trailer field is malformed")
        if is_forbidden(match[1]):
            raise BadBody(REASON)
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILERS:
            raise BadBody(f"the trailers are longer than {MAX_TRAILERS} bytes")
        if len(self._trailers) >= MAX_TRAILER_FIELDS:
            raise BadBody(f"there are more than {MAX_TRAILER_FIELDS} trailers")
        self._trailers.append((match[1], match[2].strip(b" \t")))


_CR_OR_NOTHING = late_pattern(rb"\r?")
