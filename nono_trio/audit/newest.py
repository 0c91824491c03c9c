"""Which session is the newest: what `latest`, and a name that several sessions have, stand for.

A clock may have been wrong when a session started, and whoever sets one forward would else have
the `latest` for years (`stop latest` would name it). Rules of this file: what runs is newer than
what does not; what was sealed is in the order of the ledger, which no clock has made; what was
never sealed has its start alone, which counts for nothing where it lies in the future.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from nono_trio.audit import ledger
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nono_trio.audit.stored_session import StoredSession

# Clocks that are kept by a network differ by less.
_AHEAD: Final = timedelta(minutes=1)


def newest_first(
    audit_root: Path,
    known: Sequence[StoredSession],
    is_running: Callable[[StoredSession], bool],
    now: datetime | None = None,
) -> list[StoredSession]:
    """`known` in that order; a ledger that can't be read leaves the starts to go by."""
    running = [session for session in known if is_running(session)]
    places = {name: place for place, name in enumerate(_sealed_in_order(audit_root))}
    ended = [session for session in known if session not in running]
    sealed = [session for session in ended if session.session_id in places]
    sealed.sort(key=lambda session: places[session.session_id], reverse=True)
    horizon = (now or datetime.now(UTC)) + _AHEAD
    unsealed = [session for session in ended if session.session_id not in places]
    unsealed.sort(key=lambda session: _believed(session, horizon), reverse=True)
    return [*sorted(running, key=_started_ticks, reverse=True), *_merged(sealed, unsealed, horizon)]


def _sealed_in_order(audit_root: Path) -> Sequence[str]:
    with suppress(LogUnreadable):
        return [*ledger.verify(audit_root).digests]
    return ()


def _started_ticks(session: StoredSession) -> int:
    """When its supervisor started, since the machine did: no clock sets that."""
    ticks = session.facts.supervisor_start_ticks
    return ticks if isinstance(ticks, int) else 0


def _believed(session: StoredSession, horizon: datetime) -> datetime:
    return session.started if session.started <= horizon else datetime.fromtimestamp(0, UTC)


def _merged(
    sealed: Sequence[StoredSession], unsealed: Sequence[StoredSession], horizon: datetime
) -> list[StoredSession]:
    """Put each unsealed one before the first sealed one that is believed to be older."""
    merged: list[StoredSession] = []
    waiting = [*unsealed]
    for session in sealed:
        if session.started <= horizon:
            while waiting and _believed(waiting[0], horizon) > session.started:
                merged.append(waiting.pop(0))
        merged.append(session)
    return [*merged, *waiting]
