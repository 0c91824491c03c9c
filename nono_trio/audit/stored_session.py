"""One session of the store as a value: its facts, and the first fault in them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from nono_trio.core.log.session_json import NO_FACTS, NonoTrioFacts, SessionSummary

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.log.policy_json import SessionPolicy, SupervisorProcess
    from nono_trio.core.log.summary_json import SealSummary

_BEGINNING_OF_TIME = datetime.fromtimestamp(0, UTC)
# Near the end of the calendar a time can't be shown in every zone, compared or added to. No real
# session is that late.
_END_OF_TIME = datetime(9998, 1, 1, tzinfo=UTC)


class FirstBad(msgspec.Struct, kw_only=True, frozen=True):
    """The first fault.

    `line` counts from 1 and `offset` is in bytes, both in audit-events.ndjson; they are None when
    the log is good and disagrees with a file beside it.
    """

    line: int | None = None
    offset: int | None = None
    sequence: int | None = None
    failure: str = msgspec.field(name="class")
    expected: str
    got: str

    @property
    def text(self) -> str:
        """The fault as a part of a sentence, without its place."""
        return f"{self.failure}: expected {self.expected}, got {self.got}"


class StoredSession(msgspec.Struct, kw_only=True, frozen=True):
    """A session directory; `summary` is None if nothing is known of it.

    From `sessions`, the summary is session.json, unverified: good for finding a session. From
    `bound_facts.look`, it has what the log binds, and the other fields are set: `fault` is the
    first contradiction, `alive` is true if its supervisor runs, `policy` and `totals` are
    policy.json and summary.json. `proved`: its whole log was verified (`on_the_way.py`).
    `imported`: when it came from another machine, by the ledger; None for a session of this one.
    """

    directory: Path
    summary: SessionSummary | None
    fault: FirstBad | None = None
    sealed: bool = False
    alive: bool = False
    policy: SessionPolicy | None = None
    totals: SealSummary | None = None
    supervisor: SupervisorProcess | None = None
    proved: bool = False
    imported: str | None = None

    @property
    def session_id(self) -> str:
        """The id, which is the directory's name."""
        return self.directory.name

    @property
    def started(self) -> datetime:
        """The start; without a session.json, the last change of its directory."""
        if self.summary is not None:
            return parse_time(self.summary.started) or _BEGINNING_OF_TIME
        try:
            changed = datetime.fromtimestamp(self.directory.stat().st_mtime, UTC)
        # the directory is gone, or the time is past the calendar
        except (OSError, ValueError, OverflowError):
            return _BEGINNING_OF_TIME
        return min(max(changed, _BEGINNING_OF_TIME), _END_OF_TIME)

    @property
    def facts(self) -> NonoTrioFacts:
        """Our own part of session.json."""
        return self.summary.facts if self.summary is not None else NO_FACTS

    @property
    def name(self) -> str | None:
        """Its `--name`."""
        return self.facts.name if isinstance(self.facts.name, str) else None


def parse_time(text: str) -> datetime | None:
    """Return an RFC 3339 time with its offset (UTC if it has none).

    Returns None for an invalid time, and for a time that a session can't have: before 1970, or near
    the end of the calendar.
    """
    try:
        time = datetime.fromisoformat(text)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        known = _BEGINNING_OF_TIME <= time <= _END_OF_TIME
    except (ValueError, OverflowError):
        return None
    return time if known else None
