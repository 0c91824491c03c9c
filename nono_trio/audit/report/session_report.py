"""The contents of a report about one session, as data.

Rules of this file: numbers are those of `audit show` (read/summary.py), the verdict is that of
`audit verify`, made for this report; nothing is decided again here. Every table is cut to what a
page can show, and says how many rows it lacks.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.audit import store
from nono_trio.audit.read.policy_answer import host_answer
from nono_trio.audit.read.records import size_of
from nono_trio.audit.read.status import status as status_of
from nono_trio.audit.read.summary import OTHER_HOSTS, read_story
from nono_trio.audit.report.timeline import Timeline
from nono_trio.audit.report.watcher import ListedRecord, ListLimits, ReportWatcher
from nono_trio.audit.stored_session import parse_time
from nono_trio.audit.verify import bound_facts
from nono_trio.core.log.file_events import MORE_FILES, access_word
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.read.programs import ProgramCount
    from nono_trio.audit.read.status import Status
    from nono_trio.audit.read.summary import Story
    from nono_trio.audit.report.watcher import RefusedBy
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.audit.verify.verdict import Verification
    from nono_trio.core.log.policy_json import SessionPolicy
    from nono_trio.core.policy.allow_entry import DeniedHost

ONE_SESSION: Final = ListLimits(refused=300, allowed=150)
ONE_OF_MANY: Final = ListLimits(refused=40, allowed=20)
MAX_ROWS: Final = 200  # of one table
MAX_FLAG: Final = 400  # characters
BLOCK: Final = 1024 * 1024
MAX_HASHED: Final = 8 * 1024**3  # a sparse file may be far longer, and no session is
SHOWN_ADDRESSES: Final = 3


@dataclass(frozen=True)
class RefusedHost:
    """The attempts on one host that were denied, or that failed.

    `line` is the line of the policy that decided and `flags` would have allowed it; both may be
    missing: a metadata address needs no line, and no flag opens it.
    """

    target: str
    ports: list[int]
    count: int
    reason: str
    line: str | None
    flags: list[str]
    by: RefusedBy | None


@dataclass
class HostTotals:
    """One host over all its ports."""

    target: str
    denied: int = 0
    failed: int = 0
    allowed: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    addresses: dict[str, None] = field(default_factory=dict)

    @property
    def bytes_moved(self) -> int:
        """Both directions."""
        return self.bytes_up + self.bytes_down


@dataclass(frozen=True)
class DeniedFile:
    """A path that was not granted; `access` is `read` or `create`."""

    path: str
    access: str
    by: RefusedBy | None


@dataclass(frozen=True)
class UsedCredential:
    """A credential by its name: where its secret came from, its hosts, and the requests that got
    it."""

    name: str
    secret_from: str
    hosts: list[str]
    is_held: bool
    requests: int


@dataclass(frozen=True)
class FileSum:
    """A file of the session when the report was made, and its SHA-256 (hex)."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Cut:
    """How many rows of each table the page lacks."""

    denied: int = 0
    failed: int = 0
    hosts: int = 0
    files: int = 0
    programs: int = 0
    records: int = 0
    more_files: bool = False


@dataclass(frozen=True)
class SessionReport:
    """One session."""

    stored: StoredSession
    status: Status
    answer: Verification
    story: Story
    timeline: Timeline
    last_ms: int | None
    records: list[ListedRecord]
    denied: list[RefusedHost]
    failed: list[RefusedHost]
    hosts: list[HostTotals]
    reached: int
    """Hosts that an attempt was let through to."""
    files: list[DeniedFile]
    programs: list[ProgramCount]
    credentials: list[UsedCredential]
    sums: list[FileSum]
    cut: Cut

    @property
    def started(self) -> datetime | None:
        """The start by its first record."""
        summary = self.stored.summary
        return parse_time(summary.started) if summary is not None else None

    @property
    def ended(self) -> datetime | None:
        """The end by its last record."""
        summary = self.stored.summary
        return parse_time(summary.ended or "") if summary is not None else None

    @property
    def command(self) -> list[str]:
        """The command line as recorded; secrets in it were redacted then."""
        return self.stored.summary.command if self.stored.summary is not None else []


def report_session(
    directory: Path,
    answer: Verification,
    limits: ListLimits,
    *,
    ledger: LedgerReport | None = None,
) -> SessionReport:
    """Read one session; `answer` is its verification, `ledger` the report on the ledger beside it,
    if there is one already.

    Raises LogUnreadable if a file exists and can't be read.
    """
    stored = bound_facts.look(directory, ledger, files=True)
    watcher = ReportWatcher(_timeline(stored), limits)
    story = read_story(directory, 0, watcher)
    watcher.only_looked_up(story.attempts.only_looked_up)
    stored = bound_facts.compared(stored, story)
    return _report(stored, answer, story, watcher)


def _report(
    stored: StoredSession,
    answer: Verification,
    story: Story,
    watcher: ReportWatcher,
) -> SessionReport:
    attempts = story.attempts
    denied, failed = [*attempts.denied_hosts.values()], [*attempts.failed_hosts.values()]
    hosts, records = _host_totals(story), watcher.listed
    files = [key for key in story.files if key[0] != MORE_FILES]
    return SessionReport(
        stored=stored,
        status=status_of(stored),
        answer=answer,
        story=story,
        timeline=watcher.timeline,
        last_ms=watcher.last_ms,
        records=records,
        denied=[_refused(one, stored.policy, watcher) for one in _heaviest(denied)],
        failed=[_refused(one, None, watcher) for one in _heaviest(failed)],
        hosts=hosts[:MAX_ROWS],
        reached=sum(one.allowed > 0 for one in hosts),
        files=[*_denied_files(files, watcher)],
        programs=story.programs[:MAX_ROWS],
        credentials=[*_credentials(stored.policy, watcher)],
        sums=[*_sums(stored.directory)] if not stored.alive else [],
        cut=Cut(
            denied=max(0, len(denied) - MAX_ROWS),
            failed=max(0, len(failed) - MAX_ROWS),
            hosts=max(0, len(hosts) - MAX_ROWS),
            files=max(0, len(files) - MAX_ROWS),
            programs=max(0, len(story.programs) - MAX_ROWS),
            records=watcher.listable - len(records),
            more_files=len(files) < len(story.files),
        ),
    )


def _timeline(stored: StoredSession) -> Timeline:
    """A timeline from the session's start; its end is known where the log binds it."""
    summary = stored.summary
    if summary is None:
        return Timeline()
    begin, end = parse_time(summary.started), parse_time(summary.ended or "")
    if begin is None:
        return Timeline()
    return Timeline(_unix_ms(begin), None if end is None else _unix_ms(end))


def _unix_ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _heaviest(hosts: Iterable[DeniedHost]) -> list[DeniedHost]:
    return sorted(hosts, key=lambda host: (-host.requests, host.target))[:MAX_ROWS]


def _refused(host: DeniedHost, policy: SessionPolicy | None, watcher: ReportWatcher) -> RefusedHost:
    ports = sorted(port for port in host.ports if port is not None)
    return RefusedHost(
        target=host.target,
        ports=ports,
        count=host.requests,
        reason=host.reason,
        line=None if policy is None else _line(policy, host.target, ports[0] if ports else 443),
        flags=[flag for one in host.allow_flags if (flag := pasteable_flag(one)) is not None],
        by=watcher.refused.get(("host", host.target)),
    )


def pasteable_flag(flag: str) -> str | None:
    """Return a flag as a shell takes it as this flag and its value; None if it can't be one.

    The host in it is a text of the log, and a log may have been written by another program.
    """
    if not flag.isprintable() or len(flag) > MAX_FLAG:
        return None
    try:
        words = shlex.split(flag)
    except ValueError:
        return None
    return shlex.join(words) if len(words) == 2 else None


def _line(policy: SessionPolicy, target: str, port: int) -> str | None:
    """The line of the policy that denies a host, if there is one."""
    try:
        answer = host_answer(policy, target, port)
    except (UsageError, LogUnreadable):  # no host, or an entry of a newer version
        return None
    return None if answer.allowed else answer.line  # a request was denied, not the host


def _host_totals(story: Story) -> list[HostTotals]:
    """Every host, those with the most bytes first, then those with the most denials."""
    found: dict[str, HostTotals] = {}
    for denied in story.attempts.denied_hosts.values():
        _of(found, denied.target).denied += denied.requests
    for failed in story.attempts.failed_hosts.values():
        _of(found, failed.target).failed += failed.requests
    for host in story.hosts.values():
        if host.decision not in ("allow", "approve_granted"):
            continue
        totals = _of(found, host.target)
        totals.allowed += story.allowed_requests(host)
        totals.bytes_up += host.bytes_up
        totals.bytes_down += host.bytes_down
        totals.addresses |= dict.fromkeys([*host.addresses][:SHOWN_ADDRESSES])
    order = sorted(
        found.values(),
        key=lambda one: (-one.bytes_moved, -one.denied, -one.failed, -one.allowed, one.target),
    )
    return [one for one in order if one.target != OTHER_HOSTS or one.bytes_moved or one.allowed]


def _of(found: dict[str, HostTotals], target: str) -> HostTotals:
    return found.setdefault(target, HostTotals(target))


def _denied_files(files: Iterable[tuple[str, str]], watcher: ReportWatcher) -> Iterator[DeniedFile]:
    ordered = sorted(files, key=lambda one: (one[1] != "Write", one))  # creates first
    for path, access in ordered[:MAX_ROWS]:
        yield DeniedFile(path, access_word(access), watcher.refused.get((access, path)))


def _credentials(policy: SessionPolicy | None, watcher: ReportWatcher) -> Iterator[UsedCredential]:
    for one in policy.network.credentials[:MAX_ROWS] if policy is not None else ():
        requests = watcher.credentials[one.name]
        yield UsedCredential(one.name, one.secret_from, one.hosts, one.is_held, requests)


def _sums(directory: Path) -> Iterator[FileSum]:
    for name in (
        store.LOG, store.POLICY, store.SUMMARY, store.FLOWS, store.PROCESSES, store.CHECKPOINTS,
        store.SESSION, store.BUNDLE,
    ):  # fmt: skip
        if (digest := _sha256(directory / name)) is not None:
            yield FileSum(name, digest)


def _sha256(path: Path) -> str | None:
    """The digest of a file; None if it is missing, too long or can't be read."""
    digest = hashlib.sha256()
    try:
        if size_of(path) > MAX_HASHED:
            return None
        with open_regular(path) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
