"""The ledger: one chained line for every sealed session, so that a missing session shows.

Rules of this file: appending is O(1) (only the tail is read), under an exclusive flock, one write,
then fdatasync. A torn last line is what a crash leaves: it is moved to ledger.torn beside the
ledger and the chain goes on; a whole record that lacks nothing but its newline is given it. A whole
line that can't be read is no crash and stops the append (ledger_repair.py is for that). Reading
takes no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.session_json import (
    LedgerRecord,
    decode_ledger_record,
    encode_ledger_record,
    ledger_chain_hash,
)
from nono_trio.errors import AuditLost, LogUnreadable
from nono_trio.posix.owner import as_owner_of_path, open_shared
from nono_trio.posix.process_info import sync_data
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEDGER = "ledger.ndjson"
# Before the id of a session that was removed on purpose, in a line of its own.
REMOVED_PREFIX = "removed-"
# Before the beginning of the digest of damaged lines that a repair cut off, in a line of its own.
REPAIRED_PREFIX = "repaired-"
LOCK = "ledger.lock"
TORN = "ledger.torn"

# An append holds the lock for one sync; 10 s means that some holder is stuck, not busy.
LOCK_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.01
# Far over any line we write (~350 bytes): a tail without a newline in it is not a ledger's.
MAX_LINE = 64 * 1024
LONGEST_READ = 1024 * 1024


class BadLedgerLine(msgspec.Struct, kw_only=True, frozen=True):
    """The first line that breaks the ledger's chain; `line` counts from 1, `offset` is in bytes."""

    line: int
    offset: int
    failure: str
    expected: str
    got: str


class LedgerReport(msgspec.Struct, kw_only=True, frozen=True):
    """What reading the whole ledger found.

    `digests` maps session id to the digest of its first good line, `condemned` to the fault that
    takes this proof away, `removed` (sessions that were forgotten on purpose) to the digest they
    had. `doubtful` are those whose first good line stands after one that is damaged or gone and
    names nobody (`nameless`: there is one): it may have been theirs. `torn_tail` says that the file
    ends in half a line, which a crash explains and which breaks nothing before it. `first_bad` is
    the first fault of all.
    """

    present: bool
    count: int
    chain_head: str | None
    digests: dict[str, str]
    condemned: dict[str, BadLedgerLine]
    removed: dict[str, str]
    doubtful: frozenset[str] = frozenset()
    nameless: bool = False
    first_bad: BadLedgerLine | None
    torn_tail: bool

    def has_line_for(self, session_id: str) -> bool:
        """Whether a line, damaged or not, says that this session was sealed."""
        return session_id in self.digests or session_id in self.condemned

    def knows(self, session_id: str) -> bool:
        """Whether this session was sealed and not removed on purpose since: it has to be there."""
        return self.has_line_for(session_id) and session_id not in self.removed


def append(audit_root: Path, session_id: str, digest_hex: str, completed_at: str) -> LedgerRecord:
    """Chain one session to the ledger and make the line durable.

    Blocks for the lock up to LOCK_SECONDS: call it in a thread. Raises AuditLost when the lock is
    not to be had, the last whole line is unreadable, or the line can't be written.
    """
    try:
        with as_owner_of_path(audit_root), locked(audit_root):
            return append_locked(audit_root, session_id, digest_hex, completed_at)
    except OSError as error:
        raise AuditLost(
            f"the ledger in {audit_root} can't be written: {error.strerror or error}"
        ) from error


def append_removed(audit_root: Path, session_id: str, digest_hex: str, time: str) -> LedgerRecord:
    """Say durably that a session is removed on purpose; as `append`."""
    return append(audit_root, REMOVED_PREFIX + session_id, digest_hex, time)


def read(audit_root: Path) -> Iterator[LedgerRecord]:
    """The ledger's records in order, as they stand; a torn last line is left out.

    Yields nothing when there is no ledger. Raises LogUnreadable for a whole line that is no record.
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
    """Check every line and every link; the report is about `session_id` only if that is given."""
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
        doubtful=frozenset(walk.doubtful),
        nameless=walk.nameless,
        first_bad=walk.first_bad,
        torn_tail=torn,
    )


class _Walk:
    """One pass over the ledger's lines.

    A line that is not good by itself condemns the session it names. A line whose successor was
    chained to something else was changed after that, so it is condemned too. Whatever is good by
    itself and vouched for by what follows stays good: one bad byte must not condemn every session.
    """

    def __init__(self, only: str | None) -> None:
        self.count = 0
        self.last: LedgerRecord | None = None
        self.digests: dict[str, str] = {}
        self.condemned: dict[str, BadLedgerLine] = {}
        self.removed: dict[str, str] = {}
        self.doubtful: set[str] = set()
        self.nameless = False  # whether a line so far is damaged or gone, and names nobody
        self.first_bad: BadLedgerLine | None = None
        self._only = only
        self._unreadable = 0  # lines since the last good one
        self._place = (0, 0)

    def take(self, line: bytes, number: int, offset: int) -> None:
        """Take the next whole line."""
        self._place = (number, offset)
        try:
            record = decode_ledger_record(line)
            canonical = encode_ledger_record(record) == line
        except MALFORMED as error:
            self._unread("parse error", "a ledger record", error)
            return
        chain = _chain_of(record)
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
        """Compare a line with the one before it; False for one that is not where it belongs."""
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
        session_id = record.session_id.removeprefix(REMOVED_PREFIX)
        if self._only not in (None, session_id):
            return
        if forgotten:
            self.removed[session_id] = record.session_digest
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
        if condemned is not None and self._only in (None, condemned):
            self.condemned.setdefault(condemned, bad)


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number, offset, line) of the ledger; nothing when there is none."""
    try:
        ledger = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LogUnreadable(f"{path} can't be read: {error.strerror or error}") from error
    offset = 0
    with ledger:
        # A ledger that is all hole must not be read into memory as one line.
        beginnings = iter(lambda: ledger.readline(LONGEST_READ), b"")
        for number, line in enumerate(beginnings, start=1):
            if len(line) == LONGEST_READ and not line.endswith(b"\n"):
                yield number, offset, line + b"\n"  # whole as far as it goes, and no record
                return
            yield number, offset, line
            offset += len(line)


def _chain_of(record: LedgerRecord) -> str:
    """The chain hash that the record's own fields lead to; empty if `prev_chain` is no hash."""
    if record.prev_chain is not None and not _is_hash(record.prev_chain):
        return ""
    return ledger_chain_hash(
        record.prev_chain,
        record.sequence,
        record.session_id,
        record.session_digest,
        record.completed_at,
    )


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


@contextlib.contextmanager
def locked(audit_root: Path) -> Iterator[None]:
    """Hold the ledger's lock; flock has no deadline of its own, so it is tried until ours."""
    lock = open_shared(audit_root / LOCK, os.O_RDWR)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(lock):
            if time.monotonic() >= deadline:
                raise AuditLost(
                    f"the ledger's lock was not free within {LOCK_SECONDS:.0f} s",
                    hint=f"see which process holds {audit_root / LOCK}",
                )
            time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append_locked(
    audit_root: Path, session_id: str, digest_hex: str, completed_at: str
) -> LedgerRecord:
    """As `append`, by who holds the lock; raises OSError and AuditLost."""
    path = audit_root / LEDGER
    created = not path.exists()
    file = open_shared(path, os.O_RDWR)
    with os.fdopen(file, "r+b", buffering=0) as ledger:
        _mend_torn_tail(ledger, audit_root)
        last = _last_record(ledger, path)
        record = _next_record(last, session_id, digest_hex, completed_at)
        write_whole(ledger, encode_ledger_record(record))
        sync_data(ledger.fileno())
    if created:
        sync_directory(audit_root)
    return record


def _next_record(
    last: LedgerRecord | None, session_id: str, digest_hex: str, completed_at: str
) -> LedgerRecord:
    sequence, prev = (last.sequence + 1, last.chain_hash) if last else (0, None)
    return LedgerRecord(
        sequence=sequence,
        prev_chain=prev,
        session_id=session_id,
        session_digest=digest_hex,
        completed_at=completed_at,
        chain_hash=ledger_chain_hash(prev, sequence, session_id, digest_hex, completed_at),
    )


def _tail(ledger: BinaryIO) -> tuple[int, bytes]:
    """The last MAX_LINE bytes and the offset where they begin."""
    start = max(0, ledger.seek(0, os.SEEK_END) - MAX_LINE)
    ledger.seek(start)
    return start, ledger.read(MAX_LINE)


def _mend_torn_tail(ledger: BinaryIO, audit_root: Path) -> None:
    start, tail = _tail(ledger)
    whole = tail.rfind(b"\n") + 1
    torn = tail[whole:]
    if not torn:
        return
    if start > 0 and whole == 0:
        raise AuditLost(
            f"the last {MAX_LINE} bytes of {audit_root / LEDGER} are no line of a ledger",
            hint="move the ledger away; sessions already in it keep their own checkpoints",
        )
    if sound_record(torn) is not None:
        write_whole(ledger, b"\n")
        return
    set_aside(audit_root, torn)
    ledger.truncate(start + whole)


def set_aside(audit_root: Path, cut: bytes) -> None:
    """Keep what is to be cut from the ledger beside it, durably; raises OSError."""
    kept = open_shared(audit_root / TORN, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(kept, "ab", buffering=0) as aside:
        write_whole(aside, cut if cut.endswith(b"\n") else cut + b"\n")
        sync_data(aside.fileno())


def sound_record(line: bytes) -> LedgerRecord | None:
    """The record in a line, newline or not, that holds by itself; None for any other line."""
    try:
        record = decode_ledger_record(line)
    except MALFORMED:
        return None
    return record if _chain_of(record) == record.chain_hash else None


def _last_record(ledger: BinaryIO, path: Path) -> LedgerRecord | None:
    """The record to chain to; it must hold by itself, or the break would be ours."""
    _, tail = _tail(ledger)
    if not tail:
        return None
    line = tail[:-1].rpartition(b"\n")[2]
    record = sound_record(line)
    if record is not None:
        return record
    command = f"nono-trio audit ledger repair --audit-dir {shlex.quote(str(path.parent.parent))}"
    raise AuditLost(
        f"the last line of {path} is no valid ledger record, so nothing can be chained to it",
        hint=f"`{command}` sets it aside",
    )


def write_whole(file: BinaryIO, data: bytes) -> None:
    """Append `data` in one write; a short write is cut back, so that no half line is left."""
    end = file.seek(0, os.SEEK_END)
    written = file.write(data)
    if written != len(data):
        file.truncate(end)
        raise OSError(None, f"wrote {written} of {len(data)} bytes")


def sync_directory(directory: Path) -> None:
    """Make a created or renamed name in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
