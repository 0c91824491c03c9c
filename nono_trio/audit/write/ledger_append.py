"""Appending to the ledger: one chained line for each session that is sealed or removed.

Rules of this file: an append is O(1) (it reads only the tail), under an exclusive flock, one write,
then fdatasync. A crash may leave a torn last line: it is moved to ledger.torn beside the ledger,
and the chain continues. A whole record that lacks only its newline gets one. A whole line that
can't be read did not come from a crash and stops the append (see ledger_repair.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from typing import TYPE_CHECKING, BinaryIO

from nono_trio.audit.ledger import LEDGER
from nono_trio.core.log.ledger_record import (
    IMPORTED_PREFIX,
    REMOVED_PREFIX,
    LedgerRecord,
    encode_ledger_record,
    ledger_chain_hash,
    sound_record,
)
from nono_trio.errors import AuditLost
from nono_trio.posix.disk_sync import sync_data, sync_directory
from nono_trio.posix.owner import as_owner_of_path, open_shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "ledger.lock"
TORN = "ledger.torn"

# An append holds the lock for one sync. After 10 s, its holder is stuck.
LOCK_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.01
# Far over any line of ours (~350 bytes): a longer tail without a newline is not a ledger's.
MAX_LINE = 64 * 1024


def append(audit_root: Path, session_id: str, digest_hex: str, completed_at: str) -> LedgerRecord:
    """Chain one session to the ledger and make the line durable.

    Waits for the lock up to LOCK_SECONDS: call it in a thread. Raises AuditLost if the lock stays
    taken, the last whole line is unreadable, or the line can't be written.
    """
    with to_append(audit_root):
        return append_locked(audit_root, session_id, digest_hex, completed_at)


def append_removed_locked(
    audit_root: Path, session_id: str, digest_hex: str, time: str
) -> LedgerRecord:
    """Record durably that a session is removed on purpose; as `append_locked`."""
    return append_locked(audit_root, REMOVED_PREFIX + session_id, digest_hex, time)


def append_imported_locked(
    audit_root: Path, session_id: str, digest_hex: str, time: str
) -> LedgerRecord:
    """Record durably that a session came from another machine; as `append_locked`."""
    return append_locked(audit_root, IMPORTED_PREFIX + session_id, digest_hex, time)


@contextlib.contextmanager
def to_append(audit_root: Path) -> Iterator[None]:
    """Hold the ledger's lock as its owner; an OSError in the block becomes AuditLost."""
    try:
        with as_owner_of_path(audit_root), locked(audit_root):
            yield
    except OSError as error:
        raise AuditLost(
            f"the ledger in {audit_root} can't be written: {error.strerror or error}",
            hint=f"look at it: ls -l {shlex.quote(str(audit_root))}",
        ) from error


@contextlib.contextmanager
def locked(audit_root: Path) -> Iterator[None]:
    """Hold the ledger's lock; flock has no deadline, so it is tried until ours."""
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
    """As `append`, for a caller that holds the lock; raises OSError and AuditLost."""
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


def tail_of(ledger: BinaryIO) -> tuple[int, bytes]:
    """The last MAX_LINE bytes and the offset where they begin."""
    start = max(0, ledger.seek(0, os.SEEK_END) - MAX_LINE)
    ledger.seek(start)
    return start, ledger.read(MAX_LINE)


def _mend_torn_tail(ledger: BinaryIO, audit_root: Path) -> None:
    start, tail = tail_of(ledger)
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


def append_line_locked(audit_root: Path, name: str, line: bytes) -> None:
    """Append a line to a file beside the ledger, durably, for a caller that holds the lock.

    A torn last line is set aside. Raises OSError, and AuditLost for a file without lines.
    """
    path = audit_root / name
    created = not path.exists()
    with os.fdopen(open_shared(path, os.O_RDWR), "r+b", buffering=0) as file:
        start, tail = tail_of(file)
        whole = tail.rfind(b"\n") + 1
        if start and not whole:
            raise AuditLost(f"the end of {path} is no line of it", hint="move it away")
        if tail[whole:]:  # a crash tore it
            set_aside(audit_root, tail[whole:])
            file.truncate(start + whole)
        write_whole(file, line)
        sync_data(file.fileno())
    if created:
        sync_directory(audit_root)


def set_aside(audit_root: Path, cut: bytes) -> None:
    """Keep the bytes that will be cut from the ledger beside it, durably; raises OSError."""
    kept = open_shared(audit_root / TORN, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(kept, "ab", buffering=0) as aside:
        write_whole(aside, cut if cut.endswith(b"\n") else cut + b"\n")
        sync_data(aside.fileno())


def _last_record(ledger: BinaryIO, path: Path) -> LedgerRecord | None:
    """Return the record to chain to; its own hash must be right, or we would break the chain."""
    _, tail = tail_of(ledger)
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
    """Append `data` in one write; a short write is cut back, so that no half line remains."""
    end = file.seek(0, os.SEEK_END)
    written = file.write(data)
    if written != len(data):
        file.truncate(end)
        raise OSError(None, f"wrote {written} of {len(data)} bytes")
