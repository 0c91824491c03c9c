"""Reading the files of a session, live or not, without a lock and in constant memory.

Rules of this file: lines are split on `\n` only (never on U+2028, U+0085 or a carriage return). A
line counts once its newline is written, so a follower never returns half a line. A file is read up
to its size at the start, so that a writer can't keep a reader busy without end.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec

from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED, Flow, Payload, decode_flow
from nono_trio.errors import LogUnreadable, unreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Far over any record (a request head is at most 32 KiB). A longer line is not from a log, and
# reading it whole could use up the memory.
MAX_LINE = 16 * 1024 * 1024
BLOCK = 64 * 1024  # read backwards: about 80 records
SEARCHED_BLOCK = 1024 * 1024  # searched as a whole, so that most lines need no work of their own
READ_AT_ONCE = MAX_LINE  # by a follower that is behind
NEWLINE = 0x0A


class LogRecord(msgspec.Struct):
    """A record of a log, unverified; `audit verify` verifies it."""

    sequence: int
    event: Payload


_record_decoder = late_decoder(LogRecord)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is no file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def lines(path: Path, size: int, start: int = 0) -> Iterator[bytes]:
    """Yield the lines of the first `size` bytes with their newlines; the last may have no newline.

    `start` is the offset of the first line to read.

    A line over MAX_LINE is not ours: its beginning is yielded without a newline, and nothing after
    it, so that a sparse file does not keep a reader busy. Raises OSError.
    """
    size -= start
    if size <= 0:
        return
    with open_regular(path) as file:
        file.seek(start)
        while size > 0 and (line := file.readline(min(size, MAX_LINE))):
            size -= len(line)
            yield line
            if is_too_long(line):
                return


def is_too_long(line: bytes) -> bool:
    """Return True for the beginning of a line that is longer than any of ours."""
    return len(line) >= MAX_LINE and not line.endswith(b"\n")


def _require_a_line(line: bytes, path: Path) -> None:
    if is_too_long(line):
        raise _too_long(path)


def _too_long(path: Path) -> LogUnreadable:
    return LogUnreadable(
        f"{path} has a line of more than {MAX_LINE} bytes in it, which no session writes",
        hint="check it with `nono-trio audit verify`",
    )


def is_zeros(path: Path, begin: int) -> bool:
    """Return True if all bytes from `begin` on are zero; raises OSError.

    A hole is not read: a sparse file may be a terabyte long.
    """
    with open_regular(path) as file:
        while (data := _next_data(file.fileno(), begin)) is not None:
            block = os.pread(file.fileno(), BLOCK, data)
            if not block or block.strip(b"\0"):
                return not block
            begin = data + len(block)
    return True


def _next_data(descriptor: int, begin: int) -> int | None:
    """Return the offset of the next data from `begin` on; None if only holes follow."""
    try:
        return os.lseek(descriptor, begin, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def records(path: Path) -> Iterator[LogRecord]:
    """Yield the records of a log in order, none of a missing one; invalid lines are skipped.

    Raises LogUnreadable when the file can't be read.
    """
    try:
        for line in lines(path, size_of(path)):
            _require_a_line(line, path)
            record = parse_record(line)
            if record is not None:
                yield record
    except OSError as error:
        raise unreadable(path, error) from error


def parse_record(line: bytes) -> LogRecord | None:
    """Return the record in a whole line; None for half a line and an invalid line."""
    if not line.endswith(b"\n"):
        return None
    try:
        return _record_decoder.decode(line)
    except MALFORMED:
        return None


def flows(path: Path) -> Iterator[Flow]:
    """Yield the flows of a session in order; nothing if there is no such file."""
    try:
        for line in lines(path, size_of(path)):
            _require_a_line(line, path)
            try:
                yield decode_flow(line)
            except MALFORMED:
                continue
    except OSError as error:
        raise unreadable(path, error) from error


def lines_backwards(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of the first `size` bytes, newest first, each with the offset of its
    end.

    It reads from the end, so the last ten lines of a large log cost no more than those of a small
    one.
    """
    if size == 0:
        return
    with open_regular(path) as file:
        start, held, block = size, b"", BLOCK
        while start > 0 and len(held) <= MAX_LINE:
            begin = max(0, start - block)
            file.seek(begin)
            held, start = file.read(start - begin) + held, begin
            if start + len(held) == size:
                held = held[: held.rfind(b"\n") + 1] or held  # half a line at the very end
            unread = len(held)
            for end, line in _whole_lines_backwards(held, known_beginning=start == 0):
                yield start + end, line
                unread = end - len(line)
            # Bytes without a line are joined again with each block, so the blocks grow.
            block = BLOCK if unread < len(held) else min(block * 2, SEARCHED_BLOCK)
            held = held[:unread]


def line_blocks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the whole lines of the first `size` bytes in blocks of some SEARCHED_BLOCK bytes.

    Raises OSError, and LogUnreadable for a line that is too long.
    """
    if size <= 0:
        return
    with open_regular(path) as file:
        held = b""
        while size > 0 and (block := file.read(min(size, SEARCHED_BLOCK))):
            size -= len(block)
            whole = block.rfind(b"\n") + 1
            if whole:
                yield held + block[:whole]
                held = b""
            held += block[whole:]
            _require_a_line(held, path)


def line_blocks_backwards(path: Path, size: int) -> Iterator[bytes]:
    """As `line_blocks`, the last block first; the lines of a block are in order."""
    if size <= 0:
        return
    with open_regular(path) as file:
        begin, held, is_whole = size, b"", False
        while begin > 0:
            end, begin = begin, max(0, begin - SEARCHED_BLOCK)
            file.seek(begin)
            held = file.read(end - begin) + held
            if not is_whole:  # half a line at the very end
                whole = held.rfind(b"\n") + 1
                is_whole = whole > 0
                held = held[:whole] if is_whole else held
            first = held.find(b"\n") + 1 if begin > 0 else 0
            if is_whole and held[first:] and (first or begin == 0):
                yield held[first:]
                held = held[:first]
            if len(held) > MAX_LINE:
                raise _too_long(path)


class Link(msgspec.Struct):
    """A record's place in the chain, as its own fields say. The next record must continue from
    `sequence` and `chain_hash`; `prev_chain` is the hash that this record continues from."""

    sequence: int
    chain_hash: str
    prev_chain: str | None = None


_link_decoder = late_decoder(Link)


def link_at(log: Path, offset: int) -> tuple[bytes, Link] | None:
    """Return the line that ends at an offset, and its link; None if no record ends there. Raises
    OSError."""
    end, line = next(lines_backwards(log, offset), (0, b""))
    try:
        return (line, _link_decoder.decode(line)) if end == offset else None
    except MALFORMED:
        return None


def _whole_lines_backwards(held: bytes, *, known_beginning: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in `held`, last first, each with the index of its end."""
    end = len(held)
    while end > 0 and held[end - 1] == NEWLINE:
        begin = held.rfind(b"\n", 0, end - 1) + 1
        if begin == 0 and not known_beginning:
            return
        yield end, held[begin:end]
        end = begin


class Follower:
    """Returns the whole lines that were appended to a log since the last call.

    The file may not exist yet. Half a line is left in the file and read again: the writer may cut
    it back after a failed write.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    def poll(self) -> list[bytes]:
        """Return the new whole lines, at most READ_AT_ONCE bytes; [] if there are no new ones.

        Raises LogUnreadable if the log is shorter than the lines that were returned before.
        """
        size = size_of(self._path)
        if size < self._offset:
            raise LogUnreadable(
                f"{self._path} was cut from {self._offset} to {size} bytes while it was followed",
                hint="check it with `nono-trio audit verify`",
            )
        if size == self._offset:
            return []
        with open_regular(self._path) as file:
            file.seek(self._offset)
            new = file.read(READ_AT_ONCE)
        whole = new[: new.rfind(b"\n") + 1]
        if not whole:
            _require_a_line(new, self._path)
        self._offset += len(whole)
        return [line + b"\n" for line in whole.split(b"\n")[:-1]]
