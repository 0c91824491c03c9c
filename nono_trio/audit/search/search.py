"""The search over sessions: their records that fit a query, each with its session and programs.

Rules of this file: it streams, in memory that does not grow with the number of records or sessions.
A session that can't be read does not hide the others; the report names it. A live session is read
up to its size at the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UnsetType

from nono_trio.audit import store
from nono_trio.audit.read.records import parse_record, size_of
from nono_trio.audit.read.status import Status  # noqa: TC001  (for msgspec)
from nono_trio.audit.search.query import SearchedRecord, searched_record
from nono_trio.audit.search.raw_lines import candidate_lines, candidate_lines_backwards
from nono_trio.audit.search.record_programs import RecordPrograms, SeenProgram
from nono_trio.audit.search.searched_sessions import searched_sessions
from nono_trio.core.log.events import MALFORMED, decode_flow
from nono_trio.errors import LogUnreadable, unreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from nono_trio.audit.search.patterns import HostGlob
    from nono_trio.audit.search.query import SearchQuery
    from nono_trio.audit.search.searched_sessions import SearchedSession, SearchReport

# The records of one address in one session that are found by their flow; a bit each.
MAX_FLOW_RECORDS: Final = 2**27  # 16 MiB
# Bytes of the lines whose results are held until the newest are known; 10,000 of ours are less.
MAX_HELD: Final = 64 * 1024 * 1024


class Match(msgspec.Struct, kw_only=True, frozen=True):
    """A record that was found; `status` is the cheap status of its session."""

    session_id: str
    session_name: str | None
    status: Status
    record: SearchedRecord
    programs: tuple[SeenProgram, ...]


def search(
    audit_root: Path,
    query: SearchQuery,
    report: SearchReport,
    *,
    sessions: Iterable[Path] | None = None,
    newest: int | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> Iterator[Match]:
    """Yield what fits, the newest session first, the records of a session in order.

    `sessions` are the only ones that are read, in that order. `newest` stops after so many records:
    the last ones of the newest sessions. `goes_on` is asked before each session. Raises
    LogUnreadable if the directory of the sessions can't be read.
    """
    left = newest
    for one in searched_sessions(audit_root, query, report, sessions):
        if not goes_on():
            return
        found = _SessionSearch(one, query, report)
        try:
            if left is None:
                yield from found.in_order()
            else:
                last = found.last(left)
                left -= len(last)
                yield from last
                if left <= 0:
                    return
        except LogUnreadable:
            report.unreadable.add(one.stored.session_id)


class _SessionSearch:
    """The search of one session."""

    def __init__(self, session: SearchedSession, query: SearchQuery, report: SearchReport) -> None:
        self._session = session
        self._log = session.directory / store.LOG
        self._query = query
        self._report = report
        self._programs: RecordPrograms | None = None
        self._by_address = bytearray()

    def in_order(self) -> Iterator[Match]:
        """Yield what fits; raises LogUnreadable."""
        try:
            size = self._size()
            if size and self._prepare():
                for line in candidate_lines(self._log, size, self._groups()):
                    match = self._match(line)
                    if match is not None:
                        yield match
        except OSError as error:
            raise unreadable(self._log, error) from error

    def last(self, count: int) -> list[Match]:
        """Return the last `count` that fit, in order; raises LogUnreadable."""
        found: list[Match] = []
        try:
            size = self._size()
            if size and self._prepare():
                held = 0
                for line in candidate_lines_backwards(self._log, size, self._groups()):
                    match = self._match(line)
                    if match is not None:
                        found.append(match)
                        held += len(line)
                        if held > MAX_HELD:
                            raise _too_long(self._log)
                        if len(found) >= count:
                            break
        except OSError as error:
            raise unreadable(self._log, error) from error
        return found[::-1]

    def _size(self) -> int:
        """The size of the log, 0 without a log; raises OSError for a log that is not a file."""
        if self._log.exists():
            open_regular(self._log).close()
        return size_of(self._log)

    def _prepare(self) -> bool:
        """Read the files beside the log that the query needs; False if nothing can fit then."""
        host = self._query.host
        if host is not None and host.may_be_address:
            self._by_address = _records_of_address(self._session.directory / store.FLOWS, host)
        if self._query.program is None:
            return True
        if self._is_without_programs():
            self._report.without_programs.add(self._session.stored.session_id)
        return self._known_programs().any_wanted

    def _is_without_programs(self) -> bool:
        """Return True for a session with attempts whose programs were not recorded."""
        totals = self._session.stored.facts.attempts
        if isinstance(totals, UnsetType) or size_of(self._session.directory / store.PROCESSES):
            return False
        return totals.allowed + totals.denied + totals.failed > 0

    def _groups(self) -> tuple[tuple[bytes, ...], ...]:
        """The literals to look for; those of the host are in no record that its flow finds."""
        groups = self._query.literal_groups()
        host = self._query.host
        if self._by_address and host is not None and host.host.literal is not None:
            groups = tuple(group for group in groups if group != (host.host.literal,))
        return groups

    def _known_programs(self) -> RecordPrograms:
        """The programs of the session, read when they are first needed."""
        if self._programs is None:
            path = self._session.directory / store.PROCESSES
            self._programs = RecordPrograms(path, self._query.program)
            if not self._programs.is_whole:
                self._report.without_programs.add(self._session.stored.session_id)
        return self._programs

    def _match(self, line: bytes) -> Match | None:
        record = parse_record(line)
        found = None if record is None else searched_record(record)
        if found is None:
            return None
        by_address = bool(self._by_address) and _has_bit(self._by_address, found.sequence)
        if not self._query.wants(found, address=by_address):
            return None
        programs = self._known_programs()
        if self._query.program is not None and not programs.has_wanted(found.sequence):
            return None
        stored = self._session.stored
        return Match(
            session_id=stored.session_id,
            session_name=stored.name,
            status=self._session.status,
            record=found,
            programs=programs.of(found.sequence),
        )


def _too_long(log: Path) -> LogUnreadable:
    return LogUnreadable(
        f"{log} has longer records than a session writes",
        hint="check it with `nono-trio audit verify`",
    )


def _records_of_address(path: Path, host: HostGlob) -> bytearray:
    """Return a bit for each record for which a fitting address was dialled; b"" for none."""
    bits = bytearray()
    literal = host.host.literal
    for line in candidate_lines(path, size_of(path), ((literal,),) if literal else ()):
        try:
            flow = decode_flow(line)
        except MALFORMED:
            continue
        if flow.address is None or not host.fits(flow.address, flow.port):
            continue
        place = flow.sequence >> 3
        if 0 <= flow.sequence < MAX_FLOW_RECORDS:
            if place >= len(bits):
                bits.extend(bytes(place + 1 - len(bits)))
            bits[place] |= 1 << (flow.sequence & 7)
    return bits


def _has_bit(bits: bytearray, number: int) -> bool:
    place = number >> 3
    return 0 <= place < len(bits) and bool(bits[place] >> (number & 7) & 1)
