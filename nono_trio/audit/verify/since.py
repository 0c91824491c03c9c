"""`audit verify --since`: proves that a log goes on from a checkpoint that the reader kept.

Rules of this file: the checkpoint is trusted, whatever its source. Every record after it is hashed
and must lead from its chain hash to the end of the log. The records before it are not hashed again:
the chain hash binds them, and their bytes on the disk are compared by checksums only. So the
verdict is `consistent`, never `verified`. The Merkle root is not computed, because a checkpoint has
no subtrees; session.json and the ledger are compared as they are for `list`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit.read.records import is_zeros, lines, link_at
from nono_trio.audit.store import CHECKPOINTS, FLOWS, place_name
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify import seal_check as seal
from nono_trio.audit.verify.binding import checkpoints_end_fault
from nono_trio.audit.verify.chain import BadRecord, Chain, hash_bytes
from nono_trio.audit.verify.checkpoints import (
    COUNT_MISMATCH,
    HEAD_MISMATCH,
    TRUNCATED,
    CheckpointCursor,
    parse_checkpoint,
)
from nono_trio.audit.verify.evidence import gather
from nono_trio.audit.verify.log_check import AFTER_END, is_crash
from nono_trio.audit.verify.verdict import CheckpointsSeen, Verification
from nono_trio.core.log.events import SessionEnded
from nono_trio.core.log.shown_text import counted
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.verify.evidence import Evidence
    from nono_trio.core.log.session_json import Checkpoint

BLOCK = 1024 * 1024  # read at once
HISTORY_REPLACED = "another history"


def read_since(path: Path, size: int) -> Checkpoint:
    """Return the last checkpoint in a file; raises UsageError, OSError."""
    if not path.exists():
        raise UsageError(
            f"--since: there is no file {path}",
            hint="keep a copy of a session's checkpoints.ndjson, or its last line",
        )
    found = None
    for line in lines(path, size):
        found = parse_checkpoint(line if line.endswith(b"\n") else line + b"\n")
        if found is None:
            break
    if found is None or found.chain_head is None:
        raise UsageError(
            f"--since: expected a file of checkpoints, got {path}",
            hint="keep a copy of a session's checkpoints.ndjson, or its last line",
        )
    return found


def verify_since(target: Path, since: Checkpoint) -> Verification:
    """Judge a session of ours by a checkpoint of an earlier time. Raises LogUnreadable, OSError."""
    evidence = gather(target, upstream=False)
    if not evidence.ours or evidence.directory is None:
        raise LogUnreadable(
            f"expected a session, got {target}", hint="give the session's directory"
        )
    check = _Check(evidence, since)
    check.run()
    return _answer(evidence, since, check)


class _Check:
    """One reading of a log from a checkpoint on."""

    def __init__(self, evidence: Evidence, since: Checkpoint) -> None:
        self.chain = Chain(strict=True)
        self.first_bad: FirstBad | None = None
        self.torn_bytes = 0
        self.cursor: CheckpointCursor | None = None
        self._evidence = evidence
        self._since = since
        self._offset = 0
        self._is_met = False

    def run(self) -> None:
        evidence = self._evidence
        try:
            self.cursor = CheckpointCursor(
                evidence.beside(CHECKPOINTS), evidence.checkpoints_size, self._pass
            )
            self._read_prefix(self.cursor)
            self._begin()
            self._read_on(self.cursor)
        except BadRecord as bad:
            self.first_bad = FirstBad(
                offset=self._offset,
                sequence=self.chain.count or None,
                failure=bad.failure,
                expected=bad.expected,
                got=bad.got,
            )

    def _read_prefix(self, cursor: CheckpointCursor) -> None:
        """Compare checksums up to the kept checkpoint, which must be among those of the session."""
        since, size = self._since, self._evidence.log_size
        if since.offset > size:
            raise BadRecord(TRUNCATED, f"{since.offset} bytes", f"{size} bytes")
        cursor.passed_unhashed(b"", 0)
        with open_regular(self._evidence.log) as file:
            while cursor.last is None or cursor.last.offset < since.offset:
                due = cursor.pending
                if due is None or due.offset > since.offset or due.offset < self._offset:
                    raise _replaced(since, "a session without it")
                block = file.read(min(BLOCK, due.offset - self._offset))
                if not block:
                    raise BadRecord(TRUNCATED, f"{due.offset} bytes", f"{self._offset} bytes")
                self._offset += len(block)
                cursor.passed_unhashed(block, self._offset)
        if not self._is_met:
            raise _replaced(since, "another checkpoint at its place")

    def _pass(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint of the session. An idle log has several at one offset."""
        since = self._since
        if checkpoint.offset == since.offset and _state(checkpoint) != _state(since):
            raise _replaced(since, "another checkpoint at its place")
        self._is_met |= checkpoint == since

    def _begin(self) -> None:
        """Take the state of the chain from the checkpoint, and from the last record before it."""
        since = self._since
        found = link_at(self._evidence.log, since.offset)
        if found is None:
            raise _replaced(since, "no record before it")
        _, link = found
        if (link.sequence, link.chain_hash) != (since.event_count - 1, since.chain_head):
            raise _replaced(since, f"record {link.sequence} with chain hash {link.chain_hash}")
        self.chain.count, self.chain.head = since.event_count, hash_bytes(since.chain_head)

    def _read_on(self, cursor: CheckpointCursor) -> None:
        evidence, ended = self._evidence, False
        for line in lines(evidence.log, evidence.log_size, self._offset):
            at_end = self._offset + len(line) >= evidence.log_size
            try:
                payload = self.chain.feed(line)
            except BadRecord as bad:
                if is_crash(bad, line, at_end=at_end) and self._may_be_torn(cursor, ended=ended):
                    self.torn_bytes = evidence.log_size - self._offset
                    return
                raise
            if ended:
                raise BadRecord(AFTER_END, "nothing after session_ended", "a record")
            ended = isinstance(payload, SessionEnded)
            self._compare(cursor, self._offset + len(line))
            cursor.passed_unhashed(line, self._offset + len(line))
            self._offset += len(line)
        if cursor.pending is not None:
            raise BadRecord(TRUNCATED, f"{cursor.pending.offset} bytes", f"{self._offset} bytes")

    def _may_be_torn(self, cursor: CheckpointCursor, *, ended: bool) -> bool:
        """Return whether a crash may have damaged what follows: nothing was durable there. After
        the end it leaves zeros only."""
        if self._evidence.sealed or cursor.pending is not None:
            return False
        return not ended or self._evidence.alive or is_zeros(self._evidence.log, self._offset)

    def _compare(self, cursor: CheckpointCursor, offset: int) -> None:
        """Compare the chain with a checkpoint that ends here; the cursor checks its place."""
        due = cursor.pending
        if due is None or due.offset != offset:
            return
        if due.event_count != self.chain.count:
            raise BadRecord(COUNT_MISMATCH, due.event_count, self.chain.count)
        if hash_bytes(due.chain_head) != self.chain.head:
            raise BadRecord(HEAD_MISMATCH, due.chain_head, _hex(self.chain.head))


def _answer(evidence: Evidence, since: Checkpoint, check: _Check) -> Verification:
    directory = evidence.directory
    answer = Verification(
        verdict="consistent",
        path=str(directory),
        session_id=place_name(directory) if directory is not None else None,
        event_count=check.chain.count,
        chain_head=_hex(check.chain.head),
        sealed=evidence.sealed,
        checkpoints=check.cursor.seen() if check.cursor else CheckpointsSeen(matches=False),
        first_bad=check.first_bad,
    )
    if answer.first_bad is None and evidence.sealed:
        answer.first_bad = _end_fault(evidence, check)
    if answer.first_bad is None and directory is not None:
        answer.first_bad = bound_facts.look(directory, files=True).fault
    if answer.first_bad is not None:
        answer.verdict = "tampered"
    elif not evidence.sealed:
        answer.verdict = "open" if evidence.alive else "crashed"
    if answer.first_bad is None:
        answer.notes.append(
            f"since: {_hashed(since.event_count, check.chain.count)}; the {since.event_count}"
            " before it were compared by checksums only, and no signature was checked"
        )
    if check.torn_bytes:
        answer.notes.append(f"the last {check.torn_bytes} bytes are no whole record: a torn tail")
    return answer


def _hashed(first: int, count: int) -> str:
    """Say which records lead from the checkpoint to the end of the log."""
    if count == first:
        return "no record came after the checkpoint"
    if count == first + 1:
        return f"record {first} was hashed, and goes on from the checkpoint"
    return f"records {first} to {count - 1} were hashed, and go on from the checkpoint"


def _end_fault(evidence: Evidence, check: _Check) -> FirstBad | None:
    """Return the first fault of a seal: the last checkpoint is final, and nothing follows it;
    it has the root of session.json and the digest of the flows, and session.json the log's end."""
    last, metadata = check.cursor.last if check.cursor is not None else None, evidence.metadata
    fault = seal.check_final_checkpoint(last, evidence.log_size)
    if fault is not None or last is None or metadata is None:
        return fault
    chain = check.chain
    return (
        seal.check_integrity(metadata, chain.count, _hex(chain.head), last.merkle_root)
        or seal.check_flows(last, evidence.beside(FLOWS))
        or seal.check_lost(metadata, last)
        or checkpoints_end_fault(evidence, check.cursor)
    )


def _state(checkpoint: Checkpoint) -> tuple[int, str | None, str]:
    return checkpoint.event_count, checkpoint.chain_head, checkpoint.merkle_root


def _replaced(since: Checkpoint, got: str) -> BadRecord:
    expected = (
        f"the checkpoint of {counted(since.event_count, 'record')}, chain hash {since.chain_head}"
    )
    return BadRecord(HISTORY_REPLACED, expected, got)


def _hex(digest: bytes | None) -> str | None:
    return digest.hex() if digest is not None else None
