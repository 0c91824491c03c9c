"""Summaries of a session: status and counts for `list`, the story for `show`.

Rules of this file: nothing here is proof (verify/session.py proves), so it may be quick. Counts of
a sealed session come from its summary, which the log binds (bound_facts.py). Counts of other
sessions are not bound yet and come from a scan of the log for a few byte strings. Memory is bounded
for any number of hosts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from nono_trio.audit.read.records import MAX_LINE, flows, records
from nono_trio.audit.store import FLOWS, LOG, is_alive, is_sealed, read_summary
from nono_trio.core.log.events import Network, SandboxRuntime, SessionEnded
from nono_trio.core.log.file_events import denied_request
from nono_trio.core.log.notices import NO_TOKEN, is_about_log, is_binding, is_denial
from nono_trio.core.policy.allow_entry import LOOK_UP, DeniedHost
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.core.log.events import Flow, SandboxRuntimeEvent
    from nono_trio.core.log.session_json import SessionSummary

Status: TypeAlias = Literal["running", "crashed", "sealed", "tampered"]

SCAN_BLOCK = 1024 * 1024
# Records about the log are not decisions: these two are written as allowed, all others as denied.
ABOUT_LOG = b'"target":"nono-trio:'
BINDING = (b'"target":"nono-trio:policy"', b'"target":"nono-trio:summary"')
# Each of these is once in a record: a quote in a JSON string is escaped, so no other text matches.
# A match may lie across two blocks; a match within the overlap was counted before.
ALLOW = b'"decision":"allow"'
DENY = b'"decision":"deny",'
NO_DENIAL = b'"denial_category":"authentication_failed",'
# A child can name any number of hosts; those beyond this number are counted together.
MAX_HOSTS = 10_000
OTHER_HOSTS = "(other hosts)"
MAX_FILES = 10_000


@dataclass(frozen=True)
class Counts:
    """The number of records in the log, and of decisions among them."""

    events: int
    allowed: int
    denied: int


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
        allowed, denied = summary.facts.allowed_total, summary.facts.denied_total
        if isinstance(allowed, int) and isinstance(denied, int):
            return Counts(summary.audit_event_count, allowed, denied)
    return scan(session.directory / LOG)


def scan(log: Path) -> Counts:
    """Return counts from the bytes of a log, at the speed of the disk."""
    events = 0
    found = dict.fromkeys((ALLOW, DENY, NO_DENIAL, ABOUT_LOG, *BINDING), 0)
    overlap = max(map(len, found)) - 1
    try:
        with log.open("rb") as file:
            before, unended = b"", 0
            while block := file.read(SCAN_BLOCK):
                unended = 0 if b"\n" in block else unended + len(block)
                if unended > MAX_LINE:  # not a log of ours, and an endless hole may follow
                    raise LogUnreadable(f"{log} has a line of more than {MAX_LINE} bytes in it")
                window = before + block
                events += block.count(b"\n")
                for text in found:
                    found[text] += window.count(text) - before.count(text)
                before = window[-overlap:]
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LogUnreadable(f"{log} can't be read: {error.strerror or error}") from error
    binding = sum(found[text] for text in BINDING)
    denied = found[DENY] - found[NO_DENIAL] - (found[ABOUT_LOG] - binding)
    return Counts(events, found[ALLOW] - binding, denied)


@dataclass
class HostCount:
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


@dataclass
class Story:
    """The summary of a log and its flows: the ends of the timeline, and counts.

    `first` and `last` are the first and last network records; `decisions` counts them all.
    """

    keep: int
    events: int = 0
    decisions: int = 0
    allowed: int = 0
    denied: int = 0
    sandbox: SandboxRuntimeEvent | None = None
    ended: SessionEnded | None = None
    first: list[LogRecord] = field(default_factory=list)
    last: deque[LogRecord] = field(default_factory=deque)
    hosts: dict[tuple[str, str, int | None, bool], HostCount] = field(default_factory=dict)
    files: dict[tuple[str, str], int] = field(default_factory=dict)
    """Look-ups of files that are not granted: sequence by path and access."""
    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def between(self) -> int:
        """The number of decisions that are neither in `first` nor in `last`."""
        return self.decisions - len(self.first) - len(self.last)

    @property
    def look_ups(self) -> int:
        """The number of denied look-ups."""
        return sum(host.requests for host in self.hosts.values() if host.look_up)

    def denied_hosts(self) -> list[DeniedHost]:
        """The denied hosts, by number of requests and then by name."""
        denied: dict[str, DeniedHost] = {}
        for count in self.hosts.values():
            if count.decision != "deny":
                continue
            host = denied.setdefault(count.target, DeniedHost(count.target))
            if count.look_up:
                host.look_ups += count.requests
            else:
                host.ports[count.port] += count.requests
        return sorted(denied.values(), key=lambda host: (-host.requests, host.target))

    def hosts_by_weight(self) -> list[HostCount]:
        """Denials first, then by number of requests, then by name."""
        return sorted(
            self.hosts.values(),
            key=lambda host: (host.decision != "deny", -host.requests, host.target, host.port or 0),
        )


def read_story(directory: Path, keep: int) -> Story:
    """Return the story of one session with `keep` decisions of either end; reads live sessions too.

    Raises LogUnreadable if a file exists and can't be read.
    """
    story = Story(keep=keep, last=deque(maxlen=keep))
    for record in records(directory / LOG):
        _tell_record(story, record)
    for flow in flows(directory / FLOWS):
        _tell_flow(story, flow)
    return story


def _tell_record(story: Story, record: LogRecord) -> None:
    story.events += 1
    payload = record.event
    if isinstance(payload, Network):
        _tell_decision(story, record, payload)
    elif isinstance(payload, SandboxRuntime):
        story.sandbox = payload.event
    elif (request := denied_request(payload)) is not None:
        if len(story.files) < MAX_FILES:
            story.files.setdefault((request.path, request.access), record.sequence)
    elif isinstance(payload, SessionEnded):
        story.ended = payload


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


def _host(
    story: Story, decision: str, target: str, port: int | None, look_up: bool = False
) -> HostCount:
    key = (decision, target, port, look_up)
    if key not in story.hosts and len(story.hosts) >= MAX_HOSTS:
        key = (decision, OTHER_HOSTS, None, False)
    return story.hosts.setdefault(key, HostCount(*key))
