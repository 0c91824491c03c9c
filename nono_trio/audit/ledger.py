"""Reading and verifying the ledger: one chained line for every sealed session, so that a missing
session is noticed.

Rules of this file: reading takes no lock. A crash may leave a torn last line, which breaks nothing
before it. A bad byte condemns the sessions of the lines that it touches, and no others.
write/ledger_append.py appends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.ledger_record import (
    IMPORTED_PREFIX,
    REMOVED_PREFIX,
    REPAIRED_PREFIX,
    LedgerRecord,
    decode_ledger_record,
    encode_ledger_record,
    own_chain_hash,
)
from nono_trio.errors import LogUnreadable, unreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEDGER = "ledger.ndjson"
# Signed checkpoints of the ledger, beside it (ledger_heads.py).
LEDGER_CHECKPOINTS = "ledger-checkpoints.ndjson"
# The answers of --anchor-command (write/ledger_anchor.py).
LEDGER_ANCHORS = "ledger-anchors.ndjson"
# The answers of witnesses (session/witness.py).
LEDGER_COSIGNATURES = "ledger-cosignatures.ndjson"
LONGEST_READ = 1024 * 1024  # for one line; ours have some 350 bytes


class BadLedgerLine(msgspec.Struct, kw_only=True, frozen=True):
    """The first line that breaks the ledger's chain; `line` counts from 1, `offset` is in bytes."""

    line: int
    offset: int
    failure: str
    expected: str
    got: str


class LedgerReport(msgspec.Struct, kw_only=True, frozen=True):
    """The result of reading the whole ledger.

    `digests` maps session id to the digest of its first good line, `condemned` to the fault that
    invalidates it, `removed` (sessions that were removed on purpose) to the digest they had, and
    `imported` (sessions of another machine that came in an archive) to the time of the import.
    `nameless` is true after a line that is damaged or missing and whose session is unknown.
    `doubtful` are the sessions whose first good line comes after such a line: it may have been
    theirs. `torn_tail` is true if the file ends in half a line; a crash explains it, and it breaks
    nothing before it. `first_bad` is the first of all faults.
    """

    present: bool
    count: int
    chain_head: str | None
    digests: dict[str, str]
    condemned: dict[str, BadLedgerLine]
    removed: dict[str, str]
    imported: dict[str, str] = {}
    doubtful: frozenset[str] = frozenset()
    nameless: bool = False
    first_bad: BadLedgerLine | None
    torn_tail: bool

    def has_line_for(self, session_id: str) -> bool:
        """Return True if a line, damaged or not, says that this session was sealed or imported."""
        return session_id in self.digests or session_id in self.condemned

    def knows(self, session_id: str) -> bool:
        """Return True if this session was sealed or imported and not removed on purpose since, so
        it must exist."""
        return self.has_line_for(session_id) and session_id not in self.removed


def removal_of(directory: Path) -> LedgerReport | None:
    """Return the report on a session that is gone because it was removed on purpose; None for any
    other.

    The ledger says so before the directory goes, so what reads beside a removal asks here before it
    calls the missing files tampered with.
    """
    if os.path.lexists(directory):
        return None
    try:
        report = verify(directory.parent, directory.name)
    except LogUnreadable:
        return None
    return report if directory.name in report.removed else None


def require_not_removed(directory: Path) -> None:
    """Raise LogUnreadable if a session is gone because it was removed on purpose (`removal_of`)."""
    if removal_of(directory) is not None:
        raise LogUnreadable(
            f"session {directory.name} was removed on purpose (`audit forget`, `audit cleanup`)",
            hint="the ledger keeps its digest; `nono-trio audit list` shows those that are left",
        )


def read(audit_root: Path) -> Iterator[LedgerRecord]:
    """Yield the ledger's records in order, unverified; a torn last line is left out.

    Yields nothing without a ledger. Raises LogUnreadable for a whole line that is not a record.
    """
    for number, _, line in numbered_lines(audit_root / LEDGER):
        if not line.endswith(b"\n"):
            return
        try:
            yield decode_ledger_record(line)
        except MALFORMED as error:
            raise LogUnreadable(
                f"line {number} of {audit_root / LEDGER} is no ledger record"
            ) from (error)


def verify(audit_root: Path, session_id: str | None = None) -> LedgerReport:
    """Verify every line and every link; the report covers only `session_id` if it is given."""
    return verify_file(audit_root / LEDGER, session_id)


def verify_file(path: Path, session_id: str | None = None) -> LedgerReport:
    """As `verify`, for a ledger under any name; raises LogUnreadable."""
    walk = _Walk(session_id)
    torn = False
    for number, offset, line in numbered_lines(path):
        if not line.endswith(b"\n"):
            torn = True
            break
        walk.take(line, number, offset)
    return LedgerReport(
        present=path.exists(),
        count=walk.count,
        chain_head=walk.last.chain_hash if walk.last else None,
        digests=walk.digests,
        condemned=walk.condemned,
        removed=walk.removed,
        imported=walk.imported,
        doubtful=frozenset(walk.doubtful),
        nameless=walk.nameless,
        first_bad=walk.first_bad,
        torn_tail=torn,
    )


class _Walk:
    """One pass over the ledger's lines.

    A line with a wrong hash or form condemns the session that it names. A line whose successor is
    chained to another hash was changed afterwards, so it is condemned too. A line with a right hash
    and a fitting successor stays good: one bad byte must not condemn every session.
    """

    def __init__(self, only: str | None) -> None:
        self.count = 0
        self.last: LedgerRecord | None = None
        self.digests: dict[str, str] = {}
        self.condemned: dict[str, BadLedgerLine] = {}
        self.removed: dict[str, str] = {}
        self.imported: dict[str, str] = {}
        self.doubtful: set[str] = set()
        self.nameless = False  # True once a line is damaged or missing and its session is unknown
        self.first_bad: BadLedgerLine | None = None
        self._only = only
        self._unreadable = 0  # bad lines since the last good one
        self._place = (0, 0)

    def take(self, line: bytes, number: int, offset: int) -> None:
        """Read the next whole line."""
        self._place = (number, offset)
        try:
            record = decode_ledger_record(line)
            canonical = encode_ledger_record(record) == line
        except MALFORMED as error:
            self._unread("parse error", "a ledger record", error)
            return
        chain = own_chain_hash(record)
        if not chain:
            self._unread("prev_chain mismatch", "a hash", record.prev_chain, record.session_id)
        elif chain != record.chain_hash:
            self._unread("chain hash mismatch", chain, record.chain_hash, record.session_id)
        elif not canonical:
            self._unread("line not canonical", "our spelling", "another", record.session_id)
        elif self._is_linked(record):
            self.count += 1
            self.last = record
            self._unreadable = 0
            self._note(record)

    def _unread(
        self, failure: str, expected: object, got: object, condemned: str | None = None
    ) -> None:
        self._bad(failure, expected, got, condemned)
        self._unreadable += 1

    def _is_linked(self, record: LedgerRecord) -> bool:
        """Compare a line with the one before it; False for a line in the wrong place."""
        expected = self.last.sequence + 1 if self.last else 0
        head = self.last.chain_hash if self.last else None
        if record.sequence < expected or (not record.sequence and record.prev_chain is not None):
            self._bad("sequence mismatch", expected, record.sequence, record.session_id)
            return False
        if record.sequence > expected:
            if record.sequence != expected + self._unreadable:
                self._bad("sequence mismatch", expected, record.sequence)
        elif record.prev_chain != head:
            changed = self.last.session_id if self.last else record.session_id
            self._bad("prev_chain mismatch", head, record.prev_chain, changed)
        return True

    def _note(self, record: LedgerRecord) -> None:
        """The first line for a session wins; a second must say the same."""
        if record.session_id.startswith(REPAIRED_PREFIX):
            self.nameless = True
            return
        forgotten = record.session_id.startswith(REMOVED_PREFIX)
        imported = record.session_id.startswith(IMPORTED_PREFIX)
        prefix = REMOVED_PREFIX if forgotten else IMPORTED_PREFIX
        session_id = record.session_id.removeprefix(prefix)
        if self._only not in (None, session_id):
            return
        if forgotten:
            self.removed[session_id] = record.session_digest
        elif imported:  # perhaps once more, after it was removed
            self.imported[session_id] = record.completed_at
            self.removed.pop(session_id, None)
        first = self.digests.get(session_id)
        if first is None:
            if not forgotten:
                self.digests[session_id] = record.session_digest
                if self.nameless:
                    self.doubtful.add(session_id)
        elif first != record.session_digest:
            self._bad("a second digest", first, record.session_digest, session_id)

    def _bad(
        self, failure: str, expected: object, got: object, condemned: str | None = None
    ) -> None:
        number, offset = self._place
        bad = BadLedgerLine(
            line=number, offset=offset, failure=failure, expected=str(expected), got=str(got)
        )
        self.first_bad = self.first_bad or bad
        self.nameless = self.nameless or condemned is None
        if condemned is not None:
            condemned = condemned.removeprefix(IMPORTED_PREFIX)
        if condemned is not None and self._only in (None, condemned):
            self.condemned.setdefault(condemned, bad)


def no_ledger(audit_root: Path) -> LogUnreadable:
    """Return the error where no session was sealed."""
    return LogUnreadable(
        f"there is no ledger in {audit_root}: no session was sealed there",
        hint="`nono-trio audit list` shows the sessions; --audit-dir DIR names another place",
    )


def is_signed(ledger: Path) -> bool:
    """Return whether a ledger has signed checkpoints beside it."""
    return os.path.lexists(ledger.with_name(LEDGER_CHECKPOINTS))


def readable_report(audit_root: Path) -> LedgerReport | None:
    """As `verify` for many sessions at once; None if the ledger can't be read: then each session
    says so itself."""
    try:
        return verify(audit_root)
    except LogUnreadable:
        return None


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number, offset, line) of the ledger; nothing without a ledger."""
    try:
        ledger = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error
    offset = 0
    with ledger:
        # A sparse ledger must not be read into memory as one line.
        beginnings = iter(lambda: ledger.readline(LONGEST_READ), b"")
        for number, line in enumerate(beginnings, start=1):
            if len(line) == LONGEST_READ and not line.endswith(b"\n"):
                yield number, offset, line + b"\0\n"  # complete, and never a record
                return
            yield number, offset, line
            offset += len(line)
