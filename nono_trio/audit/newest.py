"""The order of sessions by age, for `latest` and for a name that several sessions have.

A clock may have been wrong when a session started. With the start time alone, a clock set forward
would make that session `latest` for years, and `stop latest` would name it. Rules of this file: a
running session is newer than any other. Sealed sessions are in the order of the ledger, which does
not depend on a clock. An unsealed session has only its start time, which is ignored if it is in the
future.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from nono_trio.audit import ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from nono_trio.audit.stored_session import StoredSession

# Clocks that a network keeps differ by less.
_AHEAD: Final = timedelta(minutes=1)


def newest_first(
    audit_root: Path,
    known: Sequence[StoredSession],
    is_running: Callable[[StoredSession], bool],
    now: datetime | None = None,
    *,
    imported_last: bool = False,
) -> list[StoredSession]:
    """Return `known`, newest first; without a readable ledger the start times decide.

    `imported_last`: another machine's sessions come after all of this one, whenever they came.
    """
    sealed_here, imported = _sealed_in_order(audit_root)
    if imported_last and imported:
        own = [session for session in known if session.session_id not in imported]
        others = [session for session in known if session.session_id in imported]
        return [
            *newest_first(audit_root, own, is_running, now),
            *newest_first(audit_root, others, is_running, now),
        ]
    running = [session for session in known if is_running(session)]
    places = {name: place for place, name in enumerate(sealed_here)}
    ended = [session for session in known if session not in running]
    sealed = [session for session in ended if session.session_id in places]
    sealed.sort(key=lambda session: places[session.session_id], reverse=True)
    horizon = (now or datetime.now(UTC)) + _AHEAD
    unsealed = [session for session in ended if session.session_id not in places]
    unsealed.sort(key=lambda session: _believed(session, horizon), reverse=True)
    return [*sorted(running, key=_started_ticks, reverse=True), *_merged(sealed, unsealed, horizon)]


def _sealed_in_order(audit_root: Path) -> tuple[Sequence[str], Collection[str]]:
    """Return the sessions that the ledger knows, in its order, and those that were imported."""
    report = ledger.readable_report(audit_root)
    return ([*report.digests], report.imported) if report is not None else ((), ())


def _started_ticks(session: StoredSession) -> int:
    """The start of its supervisor, counted from the boot of the machine: no clock sets it."""
    ticks = session.facts.supervisor_start_ticks
    return ticks if isinstance(ticks, int) else 0


def _believed(session: StoredSession, horizon: datetime) -> datetime:
    return session.started if session.started <= horizon else datetime.fromtimestamp(0, UTC)


def _merged(
    sealed: Sequence[StoredSession], unsealed: Sequence[StoredSession], horizon: datetime
) -> list[StoredSession]:
    """Put each unsealed session before the first sealed one that is older."""
    merged: list[StoredSession] = []
    waiting = [*unsealed]
    for session in sealed:
        if session.started <= horizon:
            while waiting and _believed(waiting[0], horizon) > session.started:
                merged.append(waiting.pop(0))
        merged.append(session)
    return [*merged, *waiting]
