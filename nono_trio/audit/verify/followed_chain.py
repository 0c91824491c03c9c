"""Watches a log that is followed: it may only grow, and each new record must go on from the last.

Rules of this file: it begins with a last record that goes on from the one before it. It keeps the
count, the chain hash and the place of the last record that was read, and reads that record again
before it goes on. So a log that shrinks, that another file replaces, or whose past is hashed again,
is found. A record in the past that was changed without new hashes is found by `audit verify` only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nono_trio.audit.read.records import link_at
from nono_trio.audit.verify.chain import BadRecord, Chain, hash_bytes
from nono_trio.errors import LogRewritten, rewritten
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from pathlib import Path


class FollowedChain:
    """The state of one followed log; `offset` is the end of a whole line, where following begins.

    Raises LogRewritten where the log contradicts what was read before, and OSError.
    """

    def __init__(self, log: Path, offset: int) -> None:
        self._log = log
        self._chain = Chain(strict=False)
        self._end = offset
        self._last = b""
        self._file: tuple[int, int] | None = None
        if offset:
            self._begin_at(offset)

    def feed(self, line: bytes) -> None:
        """Take the next line, whole."""
        try:
            self._chain.feed(line)
        except BadRecord as bad:
            read = self._chain.count
            place = f"line after record {read - 1}" if read else "its first line"
            raise self._rewritten(f"{place}: {bad.failure}") from bad
        self._last = line
        self._end += len(line)

    def check_past(self) -> None:
        """Check that the last line that was read is still where it was."""
        try:
            with open_regular(self._log) as file:
                found = os.fstat(file.fileno())
                file.seek(self._end - len(self._last))
                same = file.read(len(self._last)) == self._last
        except FileNotFoundError:
            if self._file is None:  # it is not written yet
                return
            raise self._rewritten("it is gone") from None
        if self._file is None:
            self._file = (found.st_dev, found.st_ino)
        if found.st_size < self._end:
            raise self._rewritten(f"it was cut from {self._end} to {found.st_size} bytes")
        if (found.st_dev, found.st_ino) != self._file:
            raise self._rewritten("another file has its place")
        if not same:
            raise self._rewritten(f"record {self._chain.count - 1} is not the one that was read")

    def _begin_at(self, offset: int) -> None:
        """Take the last two lines: the last one must be a record that goes on from the other."""
        last = link_at(self._log, offset)
        if last is None:
            raise self._rewritten("its last line is no record")
        self._last, link = last
        # None: it is the first line, or a loss of power left no record before it.
        before = link_at(self._log, offset - len(self._last))
        head = before[1].chain_hash if before is not None else link.prev_chain
        self._chain.count = before[1].sequence + 1 if before is not None else link.sequence
        self._chain.head = hash_bytes(head)
        try:
            self._chain.feed(self._last)
        except BadRecord as bad:
            raise self._rewritten(f"its last record: {bad.failure}") from bad

    def _rewritten(self, what: str) -> LogRewritten:
        return rewritten(f"{self._log} was changed: {what}", self._log.parent)
