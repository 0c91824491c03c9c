"""`audit ledger repair`: what keeps a ledger from being chained to is set aside, and nothing else.

Rules of this file: only lines at the very end that no record holds up are cut, never one that is
good by itself, nor anything before such a line. What is cut is kept in ledger.torn, synced before
the cut, and a line of the ledger says so: the digest of the cut bytes, under the id `repaired-` and
its beginning. A tail that a crash tore needs no such line, as it never was one.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit import ledger
from nono_trio.audit.read.records import size_of
from nono_trio.audit.write import ledger_append
from nono_trio.core.log.ledger_record import REPAIRED_PREFIX, sound_record
from nono_trio.errors import JSON_SCHEMA, AuditLost, LogUnreadable
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.disk_sync import sync_data
from nono_trio.posix.owner import as_owner_of_path, open_shared

if TYPE_CHECKING:
    from pathlib import Path

# Far over what any fault of a disk leaves in one file of lines of 350 bytes.
MAX_CUT = 16 * 1024 * 1024


class Repair(msgspec.Struct, kw_only=True):
    """What was done: bytes and whole lines that were cut and kept, and what can't be mended.

    `completed`: the last record lacked its newline only. `first_bad`: the first fault that is left;
    lines before the last good one stay as they are, as evidence.
    """

    schema: int = JSON_SCHEMA
    path: str
    cut_bytes: int = 0
    cut_lines: int = 0
    kept_in: str | None = None
    completed: bool = False
    event_count: int = 0
    first_bad: ledger.BadLedgerLine | None = None


@dataclass
class _Tail:
    """The end of a ledger: `begin` is where what no record holds up begins."""

    begin: int = 0
    lines: int = 0
    completes: bool = False


def repair(audit_root: Path) -> Repair:
    """Make the ledger one that the next session can be chained to. Blocking.

    Waits for the ledger's lock as `append` does. Raises LogUnreadable when there is none,
    AuditLost when it can't be written or its end is too long to be a damaged line.
    """
    path = audit_root / ledger.LEDGER
    if not os.path.lexists(path):
        raise LogUnreadable(f"there is no ledger in {audit_root}: no session was sealed there")
    answer = Repair(path=str(path))
    try:
        with as_owner_of_path(audit_root), ledger_append.locked(audit_root):
            _repair_locked(audit_root, path, answer)
    except OSError as error:
        raise AuditLost(f"{path} can't be written: {error.strerror or error}") from error
    report = ledger.verify(audit_root)
    answer.event_count, answer.first_bad = report.count, report.first_bad
    return answer


def _repair_locked(audit_root: Path, path: Path, answer: Repair) -> None:
    tail = _look(path)
    size = size_of(path)
    if size - tail.begin > MAX_CUT:
        raise AuditLost(
            f"the last {size - tail.begin} bytes of {path} are no ledger's",
            hint="move the ledger away; a new one is begun by itself",
        )
    if size == tail.begin and not tail.completes:
        return
    with os.fdopen(open_shared(path, os.O_RDWR), "r+b", buffering=0) as file:
        if tail.completes:
            ledger_append.write_whole(file, b"\n")
            answer.completed = True
            sync_data(file.fileno())
            return
        file.seek(tail.begin)
        cut = file.read(size - tail.begin)
        ledger_append.set_aside(audit_root, cut)
        file.truncate(tail.begin)
        sync_data(file.fileno())
    answer.cut_bytes, answer.cut_lines = len(cut), tail.lines
    answer.kept_in = str(audit_root / ledger_append.TORN)
    if tail.lines:
        digest = hashlib.sha256(cut).hexdigest()
        session_id = REPAIRED_PREFIX + digest[:16]
        ledger_append.append_locked(audit_root, session_id, digest, rfc3339())


def _look(path: Path) -> _Tail:
    """Where the last good line ends, and how many whole lines stand after it."""
    tail = _Tail()
    for _, offset, line in ledger.numbered_lines(path):
        if sound_record(line) is not None:
            tail = _Tail(begin=offset + len(line), completes=not line.endswith(b"\n"))
        else:
            tail.lines += line.endswith(b"\n")
    return tail
