"""The query of a search, and the test of a record against it. Pure.

Rules of this file: a record about the log itself is never found (core/log/notices.py). Which
program a record came from is not in it; record_programs.py knows that. `literal_groups` only saves
work: of each group one literal is in the raw line of every record that is wanted, or the line
has a `\\u` escape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import UnsetType

from nono_trio.audit.stored_session import parse_time
from nono_trio.core.log.events import Decision, Network
from nono_trio.core.log.file_events import BACKEND, real_path
from nono_trio.core.log.nono_events import (
    CapabilityDecision,
    CapabilityRequest,
    CommandPolicy,
    CommandRequest,
    Denied,
    EndpointRequest,
    NetworkRequest,
    UrlOpen,
)
from nono_trio.core.log.notices import OWN_TARGETS, is_about_log
from nono_trio.core.policy.request_note import parse_note

if TYPE_CHECKING:
    from datetime import datetime

    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.search.patterns import HostGlob, PathGlob, ProgramGlob
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.log.nono_events import CapabilityEntry, Timestamp

Kind: TypeAlias = Literal["network", "file", "url", "command"]
Groups: TypeAlias = tuple[tuple[bytes, ...], ...]

_FILE_TYPE: Final = b"capability_decision"
_URL_TYPE: Final = b"url_open"
# Of each decision: texts of which one is in every such record, folded. Allowed is nearly every
# record, so a search for them gains nothing.
DECISION_LITERALS: Final[dict[str, tuple[bytes, ...]]] = {
    "deny": (b"den", _URL_TYPE),  # "deny" of a connection, "Denied" of a file
    "approve_requested": (b"approve_requested",),
    "approve_granted": (b"granted",),
    "approve_denied": (b"denied",),
    "approve_timeout": (b"timeout",),
    "approve_error": (b"approve_error",),
}


class SearchedRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A record as a search sees it.

    `hosts` begins with its target, and has the full names that it was looked up as. `unix_ms` is
    None where the log has no time. `is_cut`: its path ends with the first name that was missing.
    """

    sequence: int
    unix_ms: int | None
    kind: Kind
    decision: str
    hosts: tuple[str, ...] = ()
    port: int | None = None
    method: str | None = None
    path: str | None = None
    real_path: str | None = None
    access: str | None = None
    pid: int | None = None
    status: int | None = None
    rule: str | None = None
    category: str | None = None
    reason: str | None = None
    is_cut: bool = False

    @property
    def host(self) -> str | None:
        """Its target; "" if none could be parsed."""
        return self.hosts[0] if self.hosts else None


@dataclass(frozen=True)
class SearchQuery:
    """Everything that a record must be; None asks for nothing. Both times are included."""

    host: HostGlob | None = None
    path: PathGlob | None = None
    program: ProgramGlob | None = None
    decision: Decision | None = None
    since: datetime | None = None
    until: datetime | None = None

    def wants(self, found: SearchedRecord, *, address: bool = False) -> bool:
        """Return True for a record of this kind, from whatever program. `address`: the host pattern
        fits the address that was dialled for it."""
        return (
            (self.decision is None or found.decision == self.decision)
            and self.wants_time(found.unix_ms)
            and (self.host is None or address or self._wants_host(self.host, found))
            and (self.path is None or _wants_path(self.path, found))
        )

    def wants_time(self, unix_ms: int | None) -> bool:
        """Return True for a time between the two, and for one that is not known."""
        if unix_ms is None:
            return True
        return (self._since_ms is None or unix_ms >= self._since_ms) and (
            self._until_ms is None or unix_ms <= self._until_ms
        )

    @cached_property
    def _since_ms(self) -> float | None:
        return None if self.since is None else self.since.timestamp() * 1000

    @cached_property
    def _until_ms(self) -> float | None:
        return None if self.until is None else self.until.timestamp() * 1000

    @staticmethod
    def _wants_host(pattern: HostGlob, found: SearchedRecord) -> bool:
        return any(pattern.fits(host, found.port) for host in found.hosts)

    def literal_groups(self) -> Groups:
        """Return groups of folded literals: a line without any of a group is not wanted, unless it
        has a `\\u` escape."""
        groups: list[tuple[bytes, ...]] = []
        if self.host is not None and self.host.host.literal is not None:
            groups.append((self.host.host.literal,))
        if self.path is not None and self.path.glob.literal is not None:
            groups.append((self.path.glob.literal, _FILE_TYPE))
        if self.decision in DECISION_LITERALS:
            groups.append(DECISION_LITERALS[self.decision])
        return tuple(groups)


def _wants_path(pattern: PathGlob, found: SearchedRecord) -> bool:
    if found.path is None:
        return False
    if found.kind != "file":
        return pattern.fits_request(found.path)
    fits = pattern.fits_missing if found.is_cut else pattern.fits
    return fits(found.path) or (found.real_path is not None and pattern.fits(found.real_path))


def searched_record(record: LogRecord) -> SearchedRecord | None:
    """Return a record as a search sees it; None for one that is no decision, or about the log."""
    payload = record.event
    if isinstance(payload, Network):
        return None if is_about_log(payload.event) else _network(record.sequence, payload.event)
    if isinstance(payload, CapabilityDecision):
        return _capability(record.sequence, payload)
    if isinstance(payload, UrlOpen):
        return _url(record.sequence, payload)
    return _command(record.sequence, payload) if isinstance(payload, CommandPolicy) else None


def _network(sequence: int, event: NetworkEvent) -> SearchedRecord:
    category = event.denial_category
    rule = event.endpoint_policy_rule
    return SearchedRecord(
        sequence=sequence,
        unix_ms=event.timestamp_unix_ms,
        kind="network",
        decision=event.decision,
        hosts=_hosts(event),
        port=event.port,
        method=event.method,
        path=event.path,
        status=event.status,
        rule=None if isinstance(rule, UnsetType) else rule,
        category=None if isinstance(category, UnsetType) else category,
        reason=event.reason,
    )


def _hosts(event: NetworkEvent) -> tuple[str, ...]:
    """The target, the full names that it was looked up as, and upstream nono's own upstream."""
    upstream = event.upstream
    if (event.reason is None or event.decision == "deny") and isinstance(upstream, UnsetType):
        return (event.target,)  # nearly all
    hosts = [event.target, *parse_note(event.reason).looked_up]
    if not isinstance(upstream, UnsetType):
        hosts.append(_url_host(upstream))
    return tuple(dict.fromkeys(host for host in hosts if host)) or ("",)


def _capability(sequence: int, payload: CapabilityDecision) -> SearchedRecord | None:
    """A file that was asked for; of upstream's approvals also a host, an endpoint, a command."""
    entry = payload.entry
    request = entry.request
    reason = entry.decision.Denied.reason if isinstance(entry.decision, Denied) else request.reason
    found = SearchedRecord(
        sequence=sequence,
        unix_ms=_unix_ms(entry.timestamp),
        kind="file",
        decision=_decision_of(entry),
        pid=request.child_pid,
        reason=reason,
    )
    if isinstance(request, CapabilityRequest):
        if request.path.startswith(OWN_TARGETS):
            return None
        return msgspec.structs.replace(
            found, path=request.path, access=request.access, real_path=real_path(payload),
            is_cut=entry.backend == BACKEND,
        )  # fmt: skip
    if isinstance(request, NetworkRequest):
        hosts = (request.host, *request.resolved_ips)
        return msgspec.structs.replace(found, kind="network", hosts=hosts, port=request.port)
    if isinstance(request, EndpointRequest):
        return msgspec.structs.replace(
            found, kind="network", hosts=(_url_host(request.upstream) or request.upstream,),
            method=request.method, path=request.path, rule=request.rule_label,
        )  # fmt: skip
    assert isinstance(request, CommandRequest)
    return msgspec.structs.replace(found, kind="command", path=request.command)


def _decision_of(entry: CapabilityEntry) -> str:
    """The decision in the words of a network record."""
    if entry.backend == BACKEND:
        return "deny" if isinstance(entry.decision, Denied) else "allow"
    if isinstance(entry.decision, Denied):
        return "approve_denied"
    return "approve_granted" if entry.decision == "Granted" else "approve_timeout"


def _url(sequence: int, payload: UrlOpen) -> SearchedRecord:
    """A URL that upstream's supervisor opened; such a record has no time."""
    url = payload.request.url
    return SearchedRecord(
        sequence=sequence,
        unix_ms=None,
        kind="url",
        decision="allow" if payload.success else "deny",
        hosts=(_url_host(url),),
        path=_url_path(url),
        pid=payload.request.child_pid,
        reason=payload.error,
    )


def _command(sequence: int, payload: CommandPolicy) -> SearchedRecord:
    event = payload.event
    time = parse_time(event.timestamp)
    return SearchedRecord(
        sequence=sequence,
        unix_ms=None if time is None else int(time.timestamp() * 1000),
        kind="command",
        decision=event.decision,
        path=event.command,
        reason=event.reason,
    )


def _unix_ms(time: Timestamp) -> int:
    return time.secs_since_epoch * 1000 + time.nanos_since_epoch // 10**6


def _url_host(url: str) -> str:
    return _split_url(url)[0]


def _url_path(url: str) -> str | None:
    return _split_url(url)[1] or None


def _split_url(url: str) -> tuple[str, str]:
    """The host and the path of a URL; of one that a parser would mend, nothing: its parts would not
    be in the raw line."""
    if not url.isprintable():
        return "", ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "", ""
    return host, parts.path
