"""The sessions that a search reads, newest first, and what a person must know about them.

Rules of this file: a session is left out only by the times in its own log, never by session.json,
which a forger may have changed. A session that does not verify is read all the same, and counted.
Its status costs little (bound_facts.py) and is no proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from nono_trio.audit import ledger, store
from nono_trio.audit.read.records import lines, lines_backwards, parse_record, size_of
from nono_trio.audit.read.status import Status
from nono_trio.audit.read.status import status as status_of
from nono_trio.audit.search.query import searched_record
from nono_trio.audit.stored_session import parse_time
from nono_trio.audit.verify import bound_facts
from nono_trio.core.log.events import MALFORMED, Network, SessionEnded, SessionStarted
from nono_trio.core.log.session_json import decode_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.search.query import SearchQuery
    from nono_trio.audit.stored_session import StoredSession

# A clock may be set while a session runs, so its first and last record are not exact bounds.
CLOCK_CHANGE: Final = timedelta(days=1)
MAX_NAMED: Final = 3  # sessions in one note


@dataclass(frozen=True)
class SearchedSession:
    """A session that is read, with its cheap status."""

    stored: StoredSession
    status: Status

    @property
    def directory(self) -> Path:
        """Its directory."""
        return self.stored.directory


@dataclass
class Noted:
    """Sessions of one kind: how many, and the ids of the first MAX_NAMED."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, session_id: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(session_id)


@dataclass
class SearchReport:
    """Notes of a search for its user.

    `missing`: the ledger knows them, and they are gone. `lost`: records are missing in them.
    `without_programs`: of some of their records the programs are not known, because they were not
    recorded, or because the log is too long.
    """

    searched: int = 0
    skipped: int = 0
    tampered: Noted = field(default_factory=Noted)
    unreadable: Noted = field(default_factory=Noted)
    missing: Noted = field(default_factory=Noted)
    lost: Noted = field(default_factory=Noted)
    without_programs: Noted = field(default_factory=Noted)


def searched_sessions(
    audit_root: Path,
    query: SearchQuery,
    report: SearchReport,
    chosen: Iterable[Path] | None = None,
) -> Iterator[SearchedSession]:
    """Yield the sessions of `chosen`, or all that may have records of the query's time, newest
    first; each is read when it is needed.

    Raises LogUnreadable for a directory that can't be read.
    """
    if chosen is None:
        yield from _all_sessions(audit_root, query, report)
        return
    root, ledger_report = None, None
    for directory in chosen:
        beside = directory.resolve().parent
        if beside != root:  # all sessions at a URL have one ledger
            root, ledger_report = beside, ledger.readable_report(beside)
        session = _looked_at(directory, ledger_report)
        _note(report, session)
        yield session


def _all_sessions(
    audit_root: Path, query: SearchQuery, report: SearchReport
) -> Iterator[SearchedSession]:
    ledger_report = ledger.readable_report(audit_root)
    found = store.sessions(audit_root)
    _note_missing(report, ledger_report, found)
    for known in found:
        if _is_outside(known.directory, query):
            report.skipped += 1
        else:
            session = _looked_at(known.directory, ledger_report)
            if session.status != "tampered" or known.directory.exists():  # it was not removed now
                _note(report, session)
                yield session


def _looked_at(directory: Path, ledger_report: LedgerReport | None) -> SearchedSession:
    stored = bound_facts.look(directory, ledger_report)
    return SearchedSession(stored, status_of(stored))


def _note(report: SearchReport, session: SearchedSession) -> None:
    stored = session.stored
    report.searched += 1
    if session.status == "tampered":
        report.tampered.add(stored.session_id)
    if _has_lost(stored):
        report.lost.add(stored.session_id)


def _has_lost(stored: StoredSession) -> bool:
    """Return True if records are missing, by the summary or, before a seal, the last checkpoint."""
    if stored.sealed:
        return isinstance(stored.facts.lost_total, int) and stored.facts.lost_total > 0
    checkpoints = stored.directory / store.CHECKPOINTS
    try:
        _, line = next(lines_backwards(checkpoints, size_of(checkpoints)), (0, b""))
        return decode_checkpoint(line).lost_total > 0
    except (OSError, *MALFORMED):
        return False


def _note_missing(
    report: SearchReport, ledger_report: LedgerReport | None, found: list[StoredSession]
) -> None:
    if ledger_report is None:
        return
    there = {session.session_id for session in found}
    for session_id in ledger_report.digests:
        if session_id not in there and ledger_report.knows(session_id):
            report.missing.add(session_id)


def _is_outside(directory: Path, query: SearchQuery) -> bool:
    """Return True if the session ended before the time, or began after it."""
    if query.since is None and query.until is None:
        return False
    log = directory / store.LOG
    try:
        size = size_of(log)
        first = next(lines(log, size), b"")
        if query.until is not None:
            begun = _time_of(first)
            if begun is not None and begun > query.until + CLOCK_CHANGE:
                return True
        if query.since is not None:
            _, last = next(lines_backwards(log, size), (0, b""))
            ended = _time_of(last)
            return ended is not None and ended < query.since - CLOCK_CHANGE
    except OSError:
        return False  # the reader of the session says why
    return False


def _time_of(line: bytes) -> datetime | None:
    """The time of the first or last record; None if the record has no time."""
    record = parse_record(line)
    if record is None:
        return None
    if isinstance(record.event, SessionStarted):
        return parse_time(record.event.started)
    if isinstance(record.event, SessionEnded):
        return parse_time(record.event.ended)
    return _from_unix(_unix_ms(record))


def _unix_ms(record: LogRecord) -> int | None:
    if isinstance(record.event, Network):
        return record.event.event.timestamp_unix_ms
    found = searched_record(record)
    return None if found is None else found.unix_ms


def _from_unix(unix_ms: int | None) -> datetime | None:
    if unix_ms is None:
        return None
    try:
        return datetime.fromtimestamp(unix_ms / 1000).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
