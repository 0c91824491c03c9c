"""`audit verify --quick`: checksums instead of hashes.

Rules of this file: it only shows that no accident happened (bit rot, a torn write, a cut file).
XXH3 is no proof against an attacker, so its verdict is never `verified`. It reads every byte that a
checkpoint covers once, and parses one record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit.read.records import link_at
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.chain import BadRecord
from nono_trio.audit.verify.checkpoints import HEAD_MISMATCH, TRUNCATED, CheckpointCursor
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 1024 * 1024  # read at once; larger is not faster


class QuickCheck:
    """The result of the checksums; the state of the log is taken from its last checkpoint."""

    def __init__(self, log: Path, size: int) -> None:
        self.cursor: CheckpointCursor | None = None
        self.first_bad: FirstBad | None = None
        self._log = log
        self._size = size
        self._offset = 0

    @property
    def unchecked_bytes(self) -> int:
        """The number of bytes after the last checkpoint, which no checksum covers."""
        return self._size - self._offset

    def run(self, checkpoints: Path, checkpoints_size: int) -> None:
        """Read the log up to its last checkpoint; raises OSError, other faults are kept."""
        try:
            self.cursor = CheckpointCursor(checkpoints, checkpoints_size)
            self.cursor.passed_unhashed(b"", 0)
            self._check_segments(self.cursor)
            self._check_last_record(self.cursor)
        except BadRecord as bad:
            self.first_bad = FirstBad(
                offset=self._offset, failure=bad.failure, expected=bad.expected, got=bad.got
            )

    def _check_segments(self, cursor: CheckpointCursor) -> None:
        with open_regular(self._log) as file:
            while (due := cursor.pending) is not None:
                if due.offset > self._size:
                    raise BadRecord(TRUNCATED, f"{due.offset} bytes", f"{self._size} bytes")
                if due.offset < self._offset:
                    cursor.passed_unhashed(b"", self._offset)  # raises the fault
                block = file.read(min(BLOCK, due.offset - self._offset))
                if not block:  # it was cut since its size was taken
                    raise BadRecord(TRUNCATED, f"{due.offset} bytes", f"{self._offset} bytes")
                self._offset += len(block)
                cursor.passed_unhashed(block, self._offset)

    def _check_last_record(self, cursor: CheckpointCursor) -> None:
        last = cursor.last
        if last is None or last.event_count == 0:
            return
        expected = f"record {last.event_count - 1} with chain {last.chain_head}"
        found = link_at(self._log, last.offset)
        if found is None:
            raise BadRecord(HEAD_MISMATCH, expected, "no record")
        _, link = found
        if (link.sequence, link.chain_hash) != (last.event_count - 1, last.chain_head):
            raise BadRecord(
                HEAD_MISMATCH, expected, f"record {link.sequence} with chain {link.chain_hash}"
            )
