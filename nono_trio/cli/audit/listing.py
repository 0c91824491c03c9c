"""The work of `audit list`: select sessions, read the facts that cost little, make rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from nono_trio.audit import ledger
from nono_trio.audit.read.status import Counts, Status, counts_of
from nono_trio.audit.read.status import status as status_of
from nono_trio.audit.verify import bound_facts
from nono_trio.cli.parts import Column
from nono_trio.cli.session_rows import no_command_text, run_exit_code
from nono_trio.cli.text import MIN_LAST, ago, clean, command_text
from nono_trio.errors import LogUnreadable
from nono_trio.posix.paths import is_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.cli.answers import ListAnswer, ListRow

LIST_COLUMNS = (
    Column("ID"),
    Column("NAME", flexible="cut", leaves=4),
    Column("STARTED", leaves=5),
    Column("STATUS", states=True),
    Column("EVENTS", right=True, leaves=1),
    Column("DENY", right=True, leaves=6, denials=True),
    Column("FAIL", right=True, leaves=2),
    Column("ALLOW", right=True, leaves=3),
    Column("COMMAND", flexible="cut", least=MIN_LAST),
)

NOT_VERIFIED = (
    "not verified"  # a sealed session whose log is too long, or for which no time was left
)

IMPORTED = "imported"  # a sealed session of another machine

Row = tuple["StoredSession", Status, Counts | None]  # no counts: its log can't be read


class ListFilter(msgspec.Struct, frozen=True):
    """Which sessions are asked for; None asks for all."""

    since: datetime | None = None
    until: datetime | None = None
    command: str | None = None
    path: str | None = None
    status: str | None = None
    recent: int | None = None


class Listed(msgspec.Struct):
    """The sessions that are asked for, newest first; `more`: there are others."""

    rows: list[Row] = msgspec.field(default_factory=list)
    more: bool = False


def listed(audit_root: Path, wanted: ListFilter) -> Listed:
    """Read the sessions that are asked for, with their status and counts."""
    from nono_trio.audit.verify.on_the_way import ProofOnTheWay

    report = ledger.readable_report(audit_root)
    found, proof = Listed(), ProofOnTheWay(audit_root, report)
    for session in bound_facts.sessions(audit_root, report):
        status = status_of(session)
        if not _wants(wanted, session, status):
            continue
        if wanted.recent is not None and len(found.rows) >= wanted.recent:
            found.more = True
            break
        session = proof.prove(session)
        found.rows.append((session, status_of(session), _counts(session)))
    return found


def _counts(session: StoredSession) -> Counts | None:
    """One session that can't be read must not hide the others."""
    try:
        return counts_of(session)
    except LogUnreadable:
        return None


def answer(found: Listed) -> ListAnswer:
    """The sessions for --json."""
    from nono_trio.cli.answers import ListAnswer

    return ListAnswer(sessions=[_row_answer(*row) for row in found.rows], more=found.more)


def _row_answer(session: StoredSession, status: Status, counts: Counts | None) -> ListRow:
    from nono_trio.cli.answers import ListRow

    summary = session.summary
    return ListRow(
        session_id=session.session_id,
        name=session.name,
        status=status,
        started=summary.started if summary else None,
        ended=summary.ended if summary else None,
        command=summary.command if summary else None,
        tracked_paths=summary.tracked_paths if summary else None,
        exit_code=summary.exit_code if summary else None,
        run_exit_code=run_exit_code(session),
        event_count=counts.events if counts else None,
        allowed=counts.allowed if counts else None,
        denied=counts.denied if counts else None,
        failed=counts.failed if counts else None,
        counts_bound=status == "sealed",
        proved=session.proved,
        imported=UNSET if session.imported is None else session.imported,
        fault=session.fault,
        directory=str(session.directory),
    )


def list_row(
    session: StoredSession, status: str, counts: Counts | None, now: datetime
) -> tuple[str, ...]:
    """The cells of LIST_COLUMNS for a session."""
    command = session.summary.command if session.summary is not None else []
    return (
        session.session_id,
        clean(session.name or "-"),
        ago(session.started, now),
        _state(session, status),
        *(_count_cells(counts) if counts else "????"),
        command_text(command) or no_command_text(session),
    )


def _state(session: StoredSession, status: str) -> str:
    if status != "sealed":
        return status
    if not session.proved:
        return NOT_VERIFIED
    return status if session.imported is None else IMPORTED


def _count_cells(counts: Counts) -> Iterator[str]:
    return map(str, (counts.events, counts.denied, counts.failed, counts.allowed))


def _wants(wanted: ListFilter, session: StoredSession, status: Status) -> bool:
    return (
        (wanted.since is None or session.started >= wanted.since)
        and (wanted.until is None or session.started <= wanted.until)
        and (wanted.command is None or _runs(session, wanted.command))
        and (wanted.path is None or _touches(session, wanted.path))
        and (wanted.status is None or _has_status(session, status, wanted.status))
    )


def _runs(session: StoredSession, text: str) -> bool:
    command = session.summary.command if session.summary is not None else []
    return text.lower() in " ".join(command).lower()


def _touches(session: StoredSession, path: str) -> bool:
    """Return whether a path of the session lies below `path`, or `path` below one of them."""
    asked = os.path.abspath(path)
    return any(is_in(asked, own) or is_in(own, asked) for own in _paths(session))


def _paths(session: StoredSession) -> Iterator[str]:
    summary = session.summary
    if summary is None:
        return
    yield from summary.tracked_paths
    if summary.facts.working_directory is not msgspec.UNSET:
        yield summary.facts.working_directory


def _has_status(session: StoredSession, status: Status, asked: str) -> bool:
    """`tampered` is no state of a session but a finding, so it is looked for here and now."""
    if asked != "tampered" or status == "tampered":
        return status == asked
    from nono_trio.audit.verify.session import verify

    return verify(session.directory).verdict == "tampered"
