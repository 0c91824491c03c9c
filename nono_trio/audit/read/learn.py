"""The hosts and ports that a session was allowed, collected for a profile that allows exactly
those.

Rules of this file: the log is not verified here, so the caller verifies it first. A host counts as
allowed if its decision was "allow", even if it did not answer. A host whose requests were judged by
endpoint rules is learned as its requests, one rule for each method and path. A log can name any
number of hosts and paths, so their number is bounded and the rest is counted.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import UNSET

from nono_trio.audit.read.records import flows, records
from nono_trio.audit.store import FLOWS, LOG
from nono_trio.core.log.events import Network
from nono_trio.core.log.file_events import MORE_FILES, denied_request
from nono_trio.core.log.notices import is_about_log, is_denial
from nono_trio.core.net.address import AddressClass, classify
from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.allow_entry import (
    LOOK_UP,
    allow_entry,
    allow_flag,
    entry,
    no_entry_allows,
)
from nono_trio.core.policy.attempts import AttemptTally
from nono_trio.core.policy.endpoint_flag import MAX_SHOWN, suggested_flag
from nono_trio.core.policy.endpoint_rule import ALLOW_ENDPOINT_FLAG
from nono_trio.core.policy.mcp_policy import RESPONSE, suggested_mcp_flag
from nono_trio.core.policy.mcp_rule import ALLOW_MCP_FLAG
from nono_trio.core.policy.reasons import OPEN_PORT_FLAG
from nono_trio.core.policy.request_note import parse_note
from nono_trio.core.policy.rule import is_localhost, parse_allow
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.log.events import Flow, NetworkEvent

Target: TypeAlias = tuple[str, int]

# A longer list would not be reviewed, and with a wildcard a child can make up any number of names.
MAX_TARGETS: Final = 1000


@dataclass
class DeniedTarget:
    """A host and port that was denied: how often, the first reason, the entry that would allow it,
    and whether such an entry is valid."""

    target: str
    port: int
    count: int
    reason: str
    entry: str
    can_be_allowed: bool


@dataclass
class Learned:
    """The result for a profile; `left_out` counts targets beyond the bound.

    `schemes` has the scheme of the entry that allowed a target, if it has one.
    """

    allowed: dict[Target, int] = field(default_factory=dict)
    schemes: dict[Target, str] = field(default_factory=dict)
    denied: dict[str, DeniedTarget] = field(default_factory=dict)
    """By entry: a connection that hides its name may be denied while others to the host are
    allowed."""
    looked_up: dict[str, DeniedTarget] = field(default_factory=dict)
    """Denied names that were looked up, by name."""
    pins: dict[Target, str] = field(default_factory=dict)
    elsewhere: set[Target] = field(default_factory=set)
    """Targets reached through an upstream proxy: the address in such a flow is that proxy's."""
    open_ports: set[int] = field(default_factory=set)
    listen_ports: set[int] = field(default_factory=set)
    endpoints: dict[str, int] = field(default_factory=dict)
    """Entries for allow_endpoint with the number of requests."""
    denied_endpoints: dict[str, int] = field(default_factory=dict)
    """Entries that would allow what endpoint rules denied."""
    tools: dict[str, int] = field(default_factory=dict)
    """Entries for allow_mcp_tool with the number of messages."""
    denied_tools: dict[str, int] = field(default_factory=dict)
    """Entries that would allow what MCP rules denied."""
    judged: set[Target] = field(default_factory=set)
    """Targets whose requests endpoint rules judged: they are no entries for allow_domain."""
    files: set[tuple[str, str]] = field(default_factory=set)
    """Files that were looked up and are not granted, with the access."""
    left_out: int = 0
    unreached: dict[str, str] = field(default_factory=dict)
    """Entries of targets that only --observe let through and that were never reached, with the
    reason."""
    observed: set[Target] = field(default_factory=set)
    """Targets that only --observe let through."""

    @property
    def entries(self) -> dict[str, int]:
        """Entries for allow_domain with the number of requests, by name."""
        return {
            entry(*target, self.schemes.get(target, "")): count
            for target, count in sorted(self.allowed.items())
            if target not in self.judged and entry(*target) not in self.unreached
        }

    @property
    def refused(self) -> list[DeniedTarget]:
        """The targets that were denied and never allowed, the most frequent first.

        A name that was only looked up has the port of the look-up.
        """
        wanted = {one.target for one in self.denied.values()} | {host for host, _ in self.allowed}
        only = [one for one in self.denied.values() if not self._was_allowed(one)]
        only += [one for name, one in self.looked_up.items() if name not in wanted]
        return sorted(only, key=lambda one: (-one.count, one.target, one.port))

    def _was_allowed(self, denied: DeniedTarget) -> bool:
        target = (denied.target, denied.port)
        return target in self.allowed and denied.entry in (
            entry(*target),
            entry(*target, self.schemes.get(target, "")),
        )

    @property
    def resolve(self) -> list[str]:
        """Entries for resolve: names that led to this machine, which needs a pin."""
        return [
            f"{entry(*target)}:{address}"
            for target, address in sorted(self.pins.items())
            if target in self.allowed
        ]


def learn(directory: Path) -> Learned:
    """Read the allowed and denied targets of a session; raises LogUnreadable."""
    learned = Learned()
    attempts = AttemptTally()
    for record in records(directory / LOG):
        attempts.add(record.event)
        if isinstance(record.event, Network):
            _take(learned, record.event.event)
        elif (request := denied_request(record.event)) is not None:
            _take_file(learned, request.path, request.access)
    for flow in flows(directory / FLOWS):
        _take_flow(learned, flow)
    _leave_unreached(learned, attempts)
    return learned


def _leave_unreached(learned: Learned, attempts: AttemptTally) -> None:
    reached = {target for target, _ in attempts.allowed_targets()}
    refused = {**attempts.denied_hosts, **attempts.failed_hosts}
    for target in learned.observed - reached:
        if (host := refused.get(target[0])) is not None:
            learned.unreached[entry(*target)] = host.reason


def _take_file(learned: Learned, path: str, access: str) -> None:
    if path != MORE_FILES and len(learned.files) < MAX_TARGETS:
        learned.files.add((path, access))


def _take(learned: Learned, event: NetworkEvent) -> None:
    port = event.port
    if port is None or not event.target or is_about_log(event):
        return
    if event.path is not None and event.endpoint_policy_action is not UNSET:
        _take_request(learned, event, (event.target, port))
        return
    note = parse_note(event.reason)
    if event.decision == "allow" and note.port_flag:
        is_open = note.port_flag == OPEN_PORT_FLAG
        (learned.open_ports if is_open else learned.listen_ports).add(port)
    elif event.decision in ("allow", "approve_granted"):
        _count_allowed(learned, (event.target, port), note.scheme)
        if note.observed and (event.target, port) in learned.allowed:
            learned.observed.add((event.target, port))
        if event.mode == "external" and (event.target, port) in learned.allowed:
            learned.elsewhere.add((event.target, port))
    elif is_denial(event) and not no_entry_allows(event.reason):
        if event.method == LOOK_UP:
            _count_denied(learned, learned.looked_up, event, event.target)
        else:
            missed = allow_entry(event.target, port, event.reason) or entry(event.target, port)
            _count_denied(learned, learned.denied, event, missed)


def _take_request(learned: Learned, event: NetworkEvent, target: Target) -> None:
    """Count a request that endpoint rules judged, by the rule that allows only it."""
    if len(learned.judged) < MAX_TARGETS:
        learned.judged.add(target)
    call = parse_note(event.reason).call
    if call is not None and call.method == RESPONSE:  # every rule that opens covers it
        return
    is_denied = event.decision == "deny"
    flag = allow_flag(*target, event.reason) if is_denied else _exact_flag(event, target)
    counted = learned.denied_endpoints if is_denied else learned.endpoints
    if flag is not None and flag.startswith(ALLOW_MCP_FLAG):
        counted = learned.denied_tools if is_denied else learned.tools
    elif flag is None or not flag.startswith(ALLOW_ENDPOINT_FLAG):
        learned.left_out += not is_denied
        return
    rule = shlex.split(flag)[1]
    if rule in counted or len(counted) < MAX_TARGETS:
        counted[rule] = counted.get(rule, 0) + 1
    else:
        learned.left_out += 1


def _exact_flag(event: NetworkEvent, target: Target) -> str | None:
    """The flag for an allowed request; None if there is no rule for it alone."""
    path = (event.path or "").partition("?")[0]
    if "*" in path or len(path) > MAX_SHOWN or not _can_be_allowed(target[0], entry(*target)):
        return None
    scheme = "https" if event.mode == "connect_intercept" else "http"
    call = parse_note(event.reason).call
    if call is not None:
        return suggested_mcp_flag(scheme, *target, call, path)
    flag = suggested_flag(scheme, *target, event.method or "", path)
    return flag if flag is not None and "*" not in flag else None


def _count_allowed(learned: Learned, target: Target, scheme: str) -> None:
    if scheme:
        learned.schemes[target] = scheme
    if target in learned.allowed:
        learned.allowed[target] += 1
    elif len(learned.allowed) < MAX_TARGETS and _can_be_allowed(target[0], entry(*target)):
        learned.allowed[target] = 1
    else:
        learned.left_out += 1


def _count_denied(
    learned: Learned, denied: dict[str, DeniedTarget], event: NetworkEvent, missed: str
) -> None:
    if missed in denied:
        denied[missed].count += 1
    elif len(denied) < MAX_TARGETS:
        can_be_allowed = _can_be_allowed(event.target, missed)
        denied[missed] = DeniedTarget(
            event.target, event.port or 0, 1, event.reason or "", missed, can_be_allowed
        )
    else:
        learned.left_out += 1


def _can_be_allowed(target: str, rule: str) -> bool:
    """Return True if the rule is valid and means exactly this target.

    A command may ask for any name. A name that is not a host (`*.example.com`, `tls://example.com`,
    `example.com:*`) would be an entry for more than itself.
    """
    if not rule.isascii():
        return False
    try:
        parse_allow(rule)
        return parse_host(target).name == target
    except (BadHost, UsageError):
        return False


def _take_flow(learned: Learned, flow: Flow) -> None:
    """Record a pin: only a pin leads from a name to loopback."""
    if flow.port is None or flow.address is None or is_localhost(flow.target):
        return
    try:
        dialled, named = parse_host(flow.address).address, parse_host(flow.target)
    except BadHost:
        return
    if dialled is None or named.address is not None:
        return
    target = (flow.target, flow.port)
    is_pinned = target in learned.allowed and target not in learned.elsewhere
    if is_pinned and classify(dialled) is AddressClass.LOOPBACK:
        learned.pins[target] = str(dialled)
