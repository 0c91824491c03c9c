"""`audit ledger repair`: removes the damaged end of a ledger, so that lines can be appended again.

Rules of this file: only damaged lines at the very end are cut, never a line with a right hash, nor
anything before one. The cut bytes are kept in ledger.torn, synced before the cut. A line of the
ledger records their digest, under the id `repaired-` and its beginning. A tail that a crash tore
gets no such line, because it never was one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit import ledger
from nono_trio.audit.read.records import size_of
from nono_trio.audit.write import ledger_append
from nono_trio.core.log.ledger_record import REPAIRED_PREFIX, sound_record
from nono_trio.errors import JSON_SCHEMA, AuditLost
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.disk_sync import sync_data
from nono_trio.posix.owner import as_owner_of_path, open_shared

if TYPE_CHECKING:
    from pathlib import Path

# Far over the damage that a faulty disk does to a file of lines of 350 bytes.
MAX_CUT = 16 * 1024 * 1024


class Repair(msgspec.Struct, kw_only=True):
    """The result: bytes and whole lines that were cut and kept, and the fault that remains.

    `completed`: the last record lacked only its newline. `first_bad`: the first remaining fault;
    lines before the last good one stay unchanged, as evidence.
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
    """The end of a ledger: damaged lines start at `begin`."""

    begin: int = 0
    lines: int = 0
    completes: bool = False


def repair(audit_root: Path) -> Repair:
    """Repair the ledger, so that the next session can be appended. Blocking.

    Waits for the ledger's lock as `append` does. Raises LogUnreadable without a ledger, and
    AuditLost if it can't be written or its end is too long for a damaged line.
    """
    path = audit_root / ledger.LEDGER
    if not os.path.lexists(path):
        raise ledger.no_ledger(audit_root)
    answer = Repair(path=str(path))
    try:
        with as_owner_of_path(audit_root), ledger_append.locked(audit_root):
            _repair_locked(audit_root, path, answer)
    except OSError as error:
        raise AuditLost(
            f"{path} can't be written: {error.strerror or error}",
            hint=f"look at it: ls -l {shlex.quote(str(audit_root))}",
        ) from error
    report = ledger.verify(audit_root)
    answer.event_count, answer.first_bad = report.count, report.first_bad
    return answer


def _repair_locked(audit_root: Path, path: Path, answer: Repair) -> None:
    tail = _look(path)
    size = size_of(path)
    if size - tail.begin > MAX_CUT:
        raise AuditLost(
            f"the last {size - tail.begin} bytes of {path} are no ledger's",
            hint="move the ledger away; the next session starts a new one",
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
    """Return the end of the last good line, and the number of whole lines after it."""
    tail = _Tail()
    for _, offset, line in ledger.numbered_lines(path):
        if sound_record(line) is not None:
            tail = _Tail(begin=offset + len(line), completes=not line.endswith(b"\n"))
        else:
            tail.lines += line.endswith(b"\n")
    return tail
