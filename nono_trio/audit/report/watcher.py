"""The parts of a log that a report needs beside its story, collected while it is read.

Rules of this file: it sees each record once, in order (read/summary.py), and its memory is bounded:
counted columns, the first and last records that are listed, and four bytes a record that say which
host or file was refused there, so that lines of processes.ndjson find it. Every text is cut here,
because a log may hold any text in its place.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import UNSET

from nono_trio.audit.read.programs import ALLOWED, DENIED, FAILED, GONE
from nono_trio.core.log.events import Network
from nono_trio.core.log.file_events import access_word, denied_entry, denied_request
from nono_trio.core.log.notices import is_about_log, is_binding, is_denial
from nono_trio.core.log.processes import program_text
from nono_trio.core.log.shown_text import detail_parts, shorten, target_name
from nono_trio.core.policy.allow_entry import LOOK_UP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.report.timeline import Timeline
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.file_events import DeniedEntry
    from nono_trio.core.log.processes import ProcessLine

Outcome: TypeAlias = Literal["denied", "failed", "allowed", "file", "log"]
Refused: TypeAlias = tuple[str, str]  # ("host", its name), or the access and the path of a file

MAX_TEXT: Final = 300  # characters of one text of the log
MAX_REFUSED: Final = 12_000  # hosts and files whose programs are collected
MAX_NAMES: Final = 4  # programs of one host or file; the rest is counted
MAX_CREDENTIALS: Final = 1000
MAX_LOOK_UPS: Final = 2000


@dataclass(frozen=True, slots=True)
class ListedRecord:
    """One record of the timeline's list, its texts cut; `programs` are filled in later."""

    sequence: int
    unix_ms: int
    outcome: Outcome
    target: str
    detail: str
    programs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ListLimits:
    """How many records are listed from either end: refused ones (denied, failed, files, notes about
    the log) and allowed ones."""

    refused: int
    allowed: int


@dataclass
class _Ends:
    """The first and last of many."""

    keep: int
    first: list[ListedRecord] = field(default_factory=list)
    last: deque[ListedRecord] = field(default_factory=deque)
    seen: int = 0

    def add(self, record: ListedRecord) -> None:
        self.seen += 1
        if len(self.first) < self.keep:
            self.first.append(record)
            return
        self.last.append(record)
        if len(self.last) > self.keep:
            self.last.popleft()

    def __iter__(self) -> Iterator[ListedRecord]:
        yield from self.first
        yield from self.last


@dataclass
class RefusedBy:
    """Times and programs of what was refused: one host, or one file."""

    first_ms: int
    last_ms: int
    programs: dict[str, None] = field(default_factory=dict)
    more: int = 0
    """Records of other programs, beyond MAX_NAMES."""

    def add(self, program: str) -> None:
        """Add the program of one record."""
        if len(self.programs) < MAX_NAMES:
            self.programs[program] = None
        elif program not in self.programs:
            self.more += 1


class ReportWatcher:
    """Collects while the story is read (a StoryWatcher)."""

    def __init__(self, timeline: Timeline, limits: ListLimits) -> None:
        self.timeline = timeline
        self.refused: dict[Refused, RefusedBy] = {}
        self.last_ms: int | None = None
        """The time of the last record that has one."""
        self.credentials: Counter[str] = Counter()
        """Requests by the name of the credential that was put into them."""
        self._lists = {True: _Ends(limits.refused), False: _Ends(limits.allowed)}
        self._by_sequence = array("I")  # the place in `refused`, plus one, by sequence
        self._places: dict[Refused, int] = {}
        self._by_place: list[RefusedBy] = []
        self._listed: dict[int, ListedRecord] | None = None
        self._look_ups: dict[str, int] = {}

    # -- while it is read -------------------------------------------------------------------------

    def record(self, record: LogRecord, change: int) -> None:
        """Take the next record."""
        payload = record.event
        if record.sequence == len(self._by_sequence):
            self._by_sequence.append(0)
        if isinstance(payload, Network):
            if not is_binding(payload.event):
                self._take_decision(record.sequence, payload.event, change)
        elif (entry := denied_entry(payload)) is not None:
            process = request.child_pid if (request := denied_request(payload)) else 0
            self._take_file(record.sequence, entry, process)

    def process(self, line: ProcessLine) -> None:
        """Take the next line of processes.ndjson; all records were taken before."""
        name = _program(line)
        if name is None:
            return
        listed = self._by_number().get(line.sequence)
        if listed is not None and len(listed.programs) < MAX_NAMES:
            listed.programs.extend([name] if name not in listed.programs else [])
        if not 0 <= line.sequence < len(self._by_sequence):
            return
        place = self._by_sequence[line.sequence]
        if not place:
            return
        self._by_place[place - 1].add(name)

    # -- what was found ---------------------------------------------------------------------------

    def only_looked_up(self, names: Iterator[str]) -> None:
        """Put the denied look-ups of names that were never tried into the timeline: each is an
        attempt, and that is known at the end only."""
        for name in names:
            if (time := self._look_ups.get(name)) is not None:
                self.timeline.add("denied", time)

    @property
    def listed(self) -> list[ListedRecord]:
        """The records that are listed, in the order of the log."""
        return sorted(self._every(), key=lambda one: one.sequence)

    @property
    def listable(self) -> int:
        """The number of records from which they were taken."""
        return sum(ends.seen for ends in self._lists.values())

    # -- parts ------------------------------------------------------------------------------------

    def _by_number(self) -> dict[int, ListedRecord]:
        if self._listed is None:
            self._listed = {one.sequence: one for one in self._every()}
        return self._listed

    def _every(self) -> Iterator[ListedRecord]:
        for ends in self._lists.values():
            yield from ends

    def _take_decision(self, sequence: int, event: NetworkEvent, change: int) -> None:
        time = self.last_ms = event.timestamp_unix_ms
        for bit, lane in ((DENIED, "denied"), (FAILED, "failed"), (ALLOWED, "allowed")):
            if change & bit:
                self.timeline.add(lane, time)  # type: ignore[arg-type]  # three of the lanes
        outcome = _outcome(event, change)
        self._list(ListedRecord(sequence, time, outcome, _target(event), _detail(event)))
        if outcome in ("denied", "failed"):
            self._was_refused(sequence, ("host", event.target), time)
        if event.method == LOOK_UP and len(self._look_ups) < MAX_LOOK_UPS:
            self._look_ups.setdefault(event.target, time)
        if event.managed_credential_active is True and event.route_id is not UNSET:
            for name in shorten(event.route_id, MAX_TEXT).split(","):
                if name in self.credentials or len(self.credentials) < MAX_CREDENTIALS:
                    self.credentials[name] += 1

    def _take_file(self, sequence: int, entry: DeniedEntry, process: int) -> None:
        self.last_ms = entry.unix_ms
        self.timeline.add("files", entry.unix_ms)
        path = shorten(entry.path, MAX_TEXT)
        detail = f"{access_word(entry.access)}: {shorten(entry.reason, MAX_TEXT)}"
        by = [f"process {process}"] if process else []
        self._list(ListedRecord(sequence, entry.unix_ms, "file", path, detail, by))
        self._was_refused(sequence, (entry.access, entry.path), entry.unix_ms, by)

    def _list(self, record: ListedRecord) -> None:
        self._lists[record.outcome != "allowed"].add(record)

    def _was_refused(self, sequence: int, key: Refused, time: int, by: Sequence[str] = ()) -> None:
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MAX_REFUSED:
                return
            place = self._places[key] = len(self._by_place)
            self.refused[key] = RefusedBy(time, time)
            self._by_place.append(self.refused[key])
        self._by_place[place].last_ms = time
        for name in by:
            self._by_place[place].add(name)
        if sequence == len(self._by_sequence) - 1:
            self._by_sequence[sequence] = place + 1


def _outcome(event: NetworkEvent, change: int) -> Outcome:
    if is_about_log(event):
        return "log"
    if change & FAILED:
        return "failed"
    if event.decision in ("allow", "approve_granted"):
        return "allowed"
    return "denied" if is_denial(event) or event.decision != "deny" else "log"


def _target(event: NetworkEvent) -> str:
    return "" if is_about_log(event) else target_name(event.target, event.port)


def _detail(event: NetworkEvent) -> str:
    """Mode, request, status and reason, as far as the event has them."""
    parts = [] if is_about_log(event) else [event.mode.replace("_", " ")]
    if event.path is None and event.method == LOOK_UP:
        parts.append("look-up of the name")
    parts += detail_parts(event)
    return "; ".join(shorten(part, MAX_TEXT) for part in parts)


def _program(line: ProcessLine) -> str | None:
    if line.state == "found":
        return shorten(program_text(line.exe, line.argv), MAX_TEXT)
    return GONE if line.state == "gone" else None
