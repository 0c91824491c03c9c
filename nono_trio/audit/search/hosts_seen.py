"""The hosts of many sessions: which were tried or reached, when, how often, by which programs.

Rules of this file: attempts are counted as everywhere (core/policy/attempts.py). Memory is bounded:
a command chooses the names, so one session adds at most MAX_NEW_HOSTS rows, and all of them
MAX_HOSTS. What has no row is counted in one row together, by decision and bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.audit import store
from nono_trio.audit.read.records import flows, records
from nono_trio.audit.search.record_programs import RecordPrograms
from nono_trio.audit.search.searched_sessions import searched_sessions
from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import NO_TOKEN, is_about_log
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.attempts import AttemptTally
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import TypeAlias

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.search.query import SearchQuery
    from nono_trio.audit.search.searched_sessions import SearchedSession, SearchReport
    from nono_trio.core.log.events import Flow, NetworkEvent

    Key: TypeAlias = tuple[str, int | None]

MAX_HOSTS: Final = 20_000
MAX_NEW_HOSTS: Final = 2_000  # of one session, so that one can't take the room of all others
MAX_HOST: Final = 1024  # characters; a longer name is not one that we wrote
MAX_PROGRAMS: Final = 8  # of one host that are named


@dataclass
class HostSeen:
    """A host and port over all sessions; `port` is None for a name that was only looked up.

    `first_ms` and `last_ms` are the times of its records. `programs` are at most MAX_PROGRAMS.
    """

    host: str
    port: int | None
    first_ms: int | None = None
    last_ms: int | None = None
    allowed: int = 0
    denied: int = 0
    failed: int = 0
    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    sessions: int = 0
    programs: dict[str, None] = field(default_factory=dict)
    more_programs: bool = False

    @property
    def attempts(self) -> int:
        """All of them, whatever came of them."""
        return self.allowed + self.denied + self.failed

    def add_time(self, unix_ms: int) -> None:
        """Take the time of one more record."""
        self.first_ms = unix_ms if self.first_ms is None else min(self.first_ms, unix_ms)
        self.last_ms = unix_ms if self.last_ms is None else max(self.last_ms, unix_ms)

    def add_program(self, name: str) -> None:
        """Take the program of one more record."""
        if name not in self.programs:
            if len(self.programs) < MAX_PROGRAMS:
                self.programs[name] = None
            else:
                self.more_programs = True


@dataclass
class HostsSeen:
    """The rows, and one for all hosts without a row of their own (`others`)."""

    rows: dict[Key, HostSeen] = field(default_factory=dict)
    others: HostSeen = field(default_factory=lambda: HostSeen("", None))
    has_others: bool = False

    def by_weight(self) -> list[HostSeen]:
        """Return the rows of hosts that were tried: those that were reached first, by bytes; then
        the others by attempts, then by name."""
        tried = [row for row in self.rows.values() if row.attempts or row.connections]
        return sorted(
            tried,
            key=lambda row: (
                not row.allowed,
                -(row.bytes_up + row.bytes_down),
                -row.attempts,
                row.host,
                row.port or 0,
            ),
        )


def hosts_seen(
    audit_root: Path,
    query: SearchQuery,
    report: SearchReport,
    *,
    sessions: Iterable[Path] | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> HostsSeen:
    """Read the sessions and return their hosts; of the query the host and the times count.

    Arguments and errors as those of `search`.
    """
    seen = HostsSeen()
    for one in searched_sessions(audit_root, query, report, sessions):
        if not goes_on():
            break
        try:
            _SessionHosts(seen, one, query).read()
        except LogUnreadable:
            report.unreadable.add(one.stored.session_id)
    return seen


class _SessionHosts:
    """One session, folded into the rows."""

    def __init__(self, seen: HostsSeen, session: SearchedSession, query: SearchQuery) -> None:
        self._seen = seen
        self._directory = session.directory
        self._query = query
        self._attempts = AttemptTally()
        self._met: set[Key] = set()
        self._met_others = False
        self._programs: RecordPrograms | None = None
        self._new = 0

    def read(self) -> None:
        """Fold log and flows; raises LogUnreadable after what could be read."""
        try:
            for record in records(self._directory / store.LOG):
                self._add(record)
            for flow in flows(self._directory / store.FLOWS):
                self._add_flow(flow)
        finally:
            self._settle()

    def _add(self, record: LogRecord) -> None:
        payload = record.event
        if not isinstance(payload, Network):
            return
        event = payload.event
        if is_about_log(event) or not self._query.wants_time(event.timestamp_unix_ms):
            return
        is_allowed = event.decision in ("allow", "approve_granted")
        before = self._attempts.decided
        self._attempts.add(payload)
        after = before if is_allowed else self._attempts.decided
        if event.denial_category == NO_TOKEN or not self._wants(event.target, event.port):
            return
        row = self._row(_key(event))
        row.add_time(event.timestamp_unix_ms)
        row.allowed += is_allowed
        row.denied += after.denied - before.denied
        row.failed += after.failed - before.failed
        for program in self._known_programs().of(record.sequence):
            row.add_program(program.name)

    def _add_flow(self, flow: Flow) -> None:
        if not self._wants(flow.target, flow.port) or not self._query.wants_time(
            flow.opened_unix_ms
        ):
            return
        row = self._row((flow.target, flow.port))
        row.connections += 1
        row.bytes_up += flow.bytes_up
        row.bytes_down += flow.bytes_down

    def _settle(self) -> None:
        """Take back the allowed records that were no attempt of their own, and add the names that
        were only looked up."""
        for key, count in self._attempts.replaced.items():
            if self._wants(*key) and (key in self._met or self._met_others):
                self._row(key).allowed -= count
        for name in self._attempts.only_looked_up:
            if self._wants(name, None):
                self._row((name, None)).denied += 1

    def _wants(self, host: str, port: int | None) -> bool:
        return self._query.host is None or self._query.host.fits(host, port)

    def _known_programs(self) -> RecordPrograms:
        if self._programs is None:
            self._programs = RecordPrograms(self._directory / store.PROCESSES)
        return self._programs

    def _row(self, key: Key) -> HostSeen:
        seen = self._seen
        row = seen.rows.get(key)
        if row is None:
            if len(key[0]) > MAX_HOST or len(seen.rows) >= MAX_HOSTS or self._new >= MAX_NEW_HOSTS:
                seen.has_others = True
                seen.others.sessions += not self._met_others
                self._met_others = True
                return seen.others
            self._new += 1
            row = seen.rows[key] = HostSeen(*key)
        if key not in self._met:
            self._met.add(key)
            row.sessions += 1
        return row


def _key(event: NetworkEvent) -> Key:
    return event.target, None if event.method == LOOK_UP else event.port
