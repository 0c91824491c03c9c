"""Checks checkpoints.ndjson against the log while the log is read, in constant memory.

Rules of this file: a checkpoint is compared when the log has exactly its number of bytes. If the
log is shorter, bytes that were durable are missing. The last line may be torn only while the
session is unsealed (a crash); any other line with bytes that we would not write is damage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

from nono_trio.audit.read.records import lines
from nono_trio.audit.verify.chain import BadRecord, shown
from nono_trio.audit.verify.verdict import CheckpointsSeen
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.session_json import Checkpoint, decode_checkpoint, encode_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nono_trio.audit.verify.chain import Chain

CHECKPOINT_DAMAGED = "checkpoint parse error"
CHECKPOINT_MISMATCH = "checkpoint mismatch"
COUNT_MISMATCH = "count mismatch"
HEAD_MISMATCH = "chain head mismatch"
ROOT_MISMATCH = "Merkle root mismatch"
SEGMENT_MISMATCH = "segment checksum mismatch"
TRUNCATED = "truncated below a checkpoint"
AFTER_SEAL = "bytes after the seal"


class CheckpointCursor:
    """Walks the checkpoints while the log is read; `pending` is the next one.

    Raises BadRecord wherever log and checkpoints disagree. `passed` is called with each checkpoint
    that the log agrees with, at its place, and may raise BadRecord too.
    """

    def __init__(
        self, path: Path, size: int, passed: Callable[[Checkpoint], None] = lambda _one: None
    ) -> None:
        self.count = 0
        self.last: Checkpoint | None = None
        self.pending: Checkpoint | None = None
        self.torn = False
        self.whole_bytes = 0  # bytes of the checkpoints file in lines that are checkpoints
        self.segment = xxhash.xxh3_64()
        self._passed = passed
        self._checkpoints = self._read(path, size)
        self._advance()

    @property
    def next_offset(self) -> float:
        """The offset of the next comparison; infinite without one."""
        return self.pending.offset if self.pending is not None else float("inf")

    def passed(self, data: bytes | memoryview, offset: int, chain: Chain) -> None:
        """Compare: `data` was read, the log is good up to `offset` and `chain` is its state
        there."""
        self.segment.update(data)
        while offset >= self.next_offset:
            self._compare_chain(self._due(offset), chain)
            self._compare_segment()

    def passed_unhashed(self, data: bytes, offset: int) -> None:
        """As `passed`, for a reader that only checks checksums and ends blocks at each offset."""
        self.segment.update(data)
        while offset >= self.next_offset:
            self._passed(self._due(offset))
            self._compare_segment()

    def seen(self) -> CheckpointsSeen:
        """The result: the checkpoints match if none is left."""
        last = self.last
        return CheckpointsSeen(
            count=self.count,
            last_sequence=last.event_count - 1 if last and last.event_count else None,
            matches=self.pending is None if last or self.pending else None,
        )

    def _due(self, offset: int) -> Checkpoint:
        checkpoint = self.pending
        if checkpoint is None:
            raise AssertionError("no checkpoint is due")
        if checkpoint.offset != offset:
            raise self._mismatch(
                CHECKPOINT_MISMATCH, "an offset at the end of a record", checkpoint.offset
            )
        return checkpoint

    def _compare_chain(self, checkpoint: Checkpoint, chain: Chain) -> None:
        head = chain.head.hex() if chain.head is not None else None
        for failure, stored, computed in (
            (COUNT_MISMATCH, checkpoint.event_count, chain.count),
            (HEAD_MISMATCH, checkpoint.chain_head, head),
            (ROOT_MISMATCH, checkpoint.merkle_root, chain.tree.root().hex()),
        ):
            if stored != computed:
                raise self._mismatch(failure, stored, computed)
        self._passed(checkpoint)

    def _compare_segment(self) -> None:
        checkpoint = self.pending
        if checkpoint is None:
            raise AssertionError("no checkpoint is due")
        computed = self.segment.hexdigest()
        if checkpoint.segment_xxh3 != computed:
            raise self._mismatch(SEGMENT_MISMATCH, checkpoint.segment_xxh3, computed)
        self.segment = xxhash.xxh3_64()
        self.last = checkpoint
        self.count += 1
        self._advance()

    def _mismatch(self, failure: str, expected: object, got: object) -> BadRecord:
        return BadRecord(failure, f"{expected} (checkpoint {self.count + 1})", got)

    def _advance(self) -> None:
        self.pending = next(self._checkpoints, None)

    def _read(self, path: Path, size: int) -> Iterator[Checkpoint]:
        read, before = 0, None
        for line in lines(path, size):
            read += len(line)
            checkpoint = parse_checkpoint(line)
            if checkpoint is None:
                # Half a line is the last one. It may be shorter than when it was first read,
                # because a live writer cuts back a failed write.
                self.torn = read == size or not line.endswith(b"\n")
                if self.torn:
                    return
                raise BadRecord(CHECKPOINT_DAMAGED, "a checkpoint", shown(line))
            if before is not None:
                self._check_order(before, checkpoint)
            self.whole_bytes = read
            yield checkpoint
            before = checkpoint

    def _check_order(self, before: Checkpoint, checkpoint: Checkpoint) -> None:
        if before.final:
            raise self._mismatch(CHECKPOINT_MISMATCH, "nothing after the final one", "one more")
        if checkpoint.lost_total < before.lost_total:
            raise self._mismatch(
                CHECKPOINT_MISMATCH,
                f"a lost_total of at least {before.lost_total}",
                checkpoint.lost_total,
            )


def parse_checkpoint(line: bytes) -> Checkpoint | None:
    """Return the checkpoint in a line with exactly our bytes, else None."""
    try:
        checkpoint = decode_checkpoint(line)
        return checkpoint if encode_checkpoint(checkpoint) == line else None
    except MALFORMED:
        return None
