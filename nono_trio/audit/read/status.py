"""Status and counts of a session, for `list` and others.

Rules of this file: nothing here is proof (verify/session.py proves). Counts of a sealed session
come from its summary, which the log binds (bound_facts.py). Counts of other sessions are not bound
yet and are folded from the log, by the same rules (core/policy/attempts.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
from msgspec import UnsetType

from nono_trio.audit.read.records import records
from nono_trio.audit.store import LOG, is_alive, is_sealed, read_summary
from nono_trio.core.policy.attempts import AttemptTally

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.core.log.session_json import SessionSummary

Status: TypeAlias = Literal["running", "crashed", "sealed", "tampered"]


class Counts(msgspec.Struct, frozen=True):
    """The number of records in the log, and of attempts (core/policy/attempts.py)."""

    events: int
    allowed: int
    denied: int
    failed: int = 0


def status_of(directory: Path, summary: SessionSummary | None) -> Status:
    """The status by session.json and the process table; without session.json, it crashed at the
    start."""
    if summary is None:
        return "crashed"
    if is_sealed(summary):
        return "sealed"
    return "running" if is_alive(directory, summary) else "crashed"


def status(session: StoredSession) -> Status:
    """The status of a session that `bound_facts.look` has read."""
    if session.fault is not None:
        return "tampered"
    if session.sealed:
        return "sealed"
    return "running" if session.alive else "crashed"


def current_status(directory: Path) -> Status:
    """As `status_of`, read now; a dead session may have been sealed since it was read, so it is
    read twice."""
    status = status_of(directory, read_summary(directory))
    return status if status != "crashed" else status_of(directory, read_summary(directory))


def counts_of(session: StoredSession) -> Counts:
    """Counts of one session; zeros where there is no log."""
    summary = session.summary
    if summary is not None:
        totals = summary.facts.attempts
        if not isinstance(totals, UnsetType):
            count = summary.audit_event_count
            return Counts(count, totals.allowed, totals.denied, totals.failed)
    return scan(session.directory / LOG)


def scan(log: Path) -> Counts:
    """Return counts from the records of a log; zeros if there is none. Raises LogUnreadable."""
    events, attempts = 0, AttemptTally()
    for record in records(log):
        events += 1
        attempts.add(record.event)
    return Counts(events, attempts.allowed, attempts.denied, attempts.failed)
