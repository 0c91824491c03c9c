"""The story of a session, for `show`: its decisions, hosts, files and programs.

Rules of this file: nothing here is proof (verify/session.py proves). Memory is bounded for any
number of hosts. A list of sessions needs status.py alone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from nono_trio.audit.read.programs import (
    ALLOWED,
    DENIED,
    FAILED,
    TAKEN_BACK,
    ProgramCount,
    Programs,
    process_lines,
)
from nono_trio.audit.read.records import flows, records
from nono_trio.audit.store import FLOWS, LOG, PROCESSES
from nono_trio.core.log.events import Network, SandboxRuntime, SessionEnded
from nono_trio.core.log.file_events import denied_request
from nono_trio.core.log.notices import NO_TOKEN, is_about_log, is_binding, is_denial
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.attempts import AttemptTally

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.core.log.events import Flow, Payload, SandboxRuntimeEvent
    from nono_trio.core.log.processes import ProcessLine
    from nono_trio.core.policy.attempts import Decided

# A child can name any number of hosts; those beyond this number are counted together.
MAX_HOSTS = 10_000
MAX_ADDRESSES = 8  # of one host and port
OTHER_HOSTS = "(other hosts)"
MAX_FILES = 10_000


class HostCount(msgspec.Struct):
    """Decisions of one kind about one host and port, and the bytes of their connections.

    `look_up`: the decision was about a look-up of the name.
    """

    decision: str
    target: str
    port: int | None
    look_up: bool = False
    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    addresses: dict[str, None] = msgspec.field(default_factory=dict)
    """The addresses that were dialled, the first MAX_ADDRESSES."""


class Story(msgspec.Struct):
    """The summary of a log and its flows: the ends of the timeline, and counts.

    `first` and `last` are the first and last network records; `decisions` counts them all.
    `allowed` and `denied` count records, as the summary of a session binds them; `attempts` has the
    numbers for users.
    """

    keep: int
    events: int = 0
    decisions: int = 0
    allowed: int = 0
    denied: int = 0
    attempts: AttemptTally = msgspec.field(default_factory=AttemptTally)
    sandbox: SandboxRuntimeEvent | None = None
    ended: SessionEnded | None = None
    first: list[LogRecord] = msgspec.field(default_factory=list)
    last: deque[LogRecord] = msgspec.field(default_factory=deque)
    hosts: dict[tuple[str, str, int | None, bool], HostCount] = msgspec.field(default_factory=dict)
    files: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)
    """Look-ups of files that are not granted: sequence by path and access."""
    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    programs: list[ProgramCount] = msgspec.field(default_factory=list)
    by_sequence: bytearray = msgspec.field(default_factory=bytearray)
    """The numbers in `attempts` that each record changed, a byte a record (programs.py); the lines
    of processes.ndjson need them."""
    look_ups: dict[str, int] = msgspec.field(default_factory=dict)
    """The first record of a denied look-up by name, at most MAX_HOSTS."""

    @property
    def between(self) -> int:
        """The number of decisions that are neither in `first` nor in `last`."""
        return self.decisions - len(self.first) - len(self.last)

    def allowed_requests(self, host: HostCount) -> int:
        """The allowed attempts among the allowed records of one host and port."""
        return host.requests - self.attempts.replaced[host.target, host.port]

    def hosts_by_weight(self) -> list[HostCount]:
        """Denials first, then by number of requests, then by name."""
        return sorted(
            self.hosts.values(),
            key=lambda host: (host.decision != "deny", -host.requests, host.target, host.port or 0),
        )


class StoryWatcher(Protocol):
    """Sees each record, then each line of processes.ndjson, while a story is read."""

    def record(self, record: LogRecord, change: int) -> None:
        """Take the next record; `change`: the bits of programs.py, what it did to the attempts."""

    def process(self, line: ProcessLine) -> None:
        """Take the next line."""


def read_story(directory: Path, keep: int, watcher: StoryWatcher | None = None) -> Story:
    """Return the story of one session with `keep` decisions of either end; reads live sessions too.

    Raises LogUnreadable if a file exists and can't be read.
    """
    story = Story(keep=keep, last=deque(maxlen=keep))
    for record in records(directory / LOG):
        change = _tell_record(story, record)
        if watcher is not None:
            watcher.record(record, change)
    for flow in flows(directory / FLOWS):
        _tell_flow(story, flow)
    for name in story.attempts.only_looked_up:
        if name in story.look_ups:
            story.by_sequence[story.look_ups[name]] = DENIED
    programs = Programs(story.by_sequence)
    for line in process_lines(directory / PROCESSES):
        programs.add(line)
        if watcher is not None:
            watcher.process(line)
    story.programs = programs.counted()
    return story


def _tell_record(story: Story, record: LogRecord) -> int:
    """Fold one record and return what it did to the attempts."""
    story.events += 1
    payload = record.event
    before = story.attempts.decided
    story.attempts.add(payload)
    change = _changed(before, story.attempts.decided)
    if record.sequence == len(story.by_sequence):  # a log of ours counts from 0
        story.by_sequence.append(change)
        _tell_look_up(story, record.sequence, payload)
    if isinstance(payload, Network):
        _tell_decision(story, record, payload)
    elif isinstance(payload, SandboxRuntime):
        story.sandbox = payload.event
    elif (request := denied_request(payload)) is not None:
        if len(story.files) < MAX_FILES:
            story.files.setdefault((request.path, request.access), record.sequence)
    elif isinstance(payload, SessionEnded):
        story.ended = payload
    return change


def _changed(before: Decided, after: Decided) -> int:
    allowed = after.allowed - before.allowed
    return (
        (ALLOWED if allowed > 0 else 0)
        | (TAKEN_BACK if allowed < 0 else 0)
        | (DENIED if after.denied > before.denied else 0)
        | (FAILED if after.failed > before.failed else 0)
    )


def _tell_look_up(story: Story, sequence: int, payload: Payload) -> None:
    if not isinstance(payload, Network) or payload.event.method != LOOK_UP:
        return
    if len(story.look_ups) < MAX_HOSTS:
        story.look_ups.setdefault(payload.event.target, sequence)


def _tell_decision(story: Story, record: LogRecord, payload: Network) -> None:
    event = payload.event
    if is_binding(event):
        return
    story.decisions += 1
    if not is_about_log(event):  # a record about the log itself is in the timeline only
        story.allowed += event.decision == "allow"
        story.denied += is_denial(event)
        if event.denial_category != NO_TOKEN:
            look_up = event.method == LOOK_UP
            _host(story, event.decision, event.target, event.port, look_up).requests += 1
    if len(story.first) < story.keep:
        story.first.append(record)
    else:
        story.last.append(record)


def _tell_flow(story: Story, flow: Flow) -> None:
    story.connections += 1
    story.bytes_up += flow.bytes_up
    story.bytes_down += flow.bytes_down
    host = _host(story, "allow", flow.target, flow.port)
    host.bytes_up += flow.bytes_up
    host.bytes_down += flow.bytes_down
    if flow.address is not None and len(host.addresses) < MAX_ADDRESSES:
        host.addresses[flow.address] = None


def _host(
    story: Story, decision: str, target: str, port: int | None, look_up: bool = False
) -> HostCount:
    key = (decision, target, port, look_up)
    if key not in story.hosts and len(story.hosts) >= MAX_HOSTS:
        key = (decision, OTHER_HOSTS, None, False)
    return story.hosts.setdefault(key, HostCount(*key))
