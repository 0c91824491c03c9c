"""What a session's log says it was allowed, gathered for a profile that allows exactly that.

Rules of this file: the log is taken at its word, so the caller has it verified first; a host
counts as allowed when its decision was, whether or not anybody answered; a log can name any number
of hosts, so what is kept is bounded and what was left out is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from nono_trio.audit.read import flows, records
from nono_trio.audit.store import FLOWS, LOG
from nono_trio.core.addresses import AddressClass, classify
from nono_trio.core.events import Network
from nono_trio.core.hosts import BadHost, parse_host
from nono_trio.core.rules import is_localhost, parse_allow
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.events import Flow, NetworkEvent

Target: TypeAlias = tuple[str, int]

# Nobody reviews a longer list, and a wildcard lets a child make up names for ever.
MAX_TARGETS: Final = 1000
OPEN_PORT: Final = "--open-port"
LISTEN_PORT: Final = "--listen-port"


@dataclass
class Denied:
    """A host and port that was refused: how often, why at first, whether a rule can open it."""

    target: str
    port: int
    count: int
    reason: str
    can_be_allowed: bool


@dataclass
class Learned:
    """What a session did, in the terms of a profile; `left_out` counts targets beyond the bound."""

    allowed: dict[Target, int] = field(default_factory=dict)
    denied: dict[Target, Denied] = field(default_factory=dict)
    pins: dict[Target, str] = field(default_factory=dict)
    open_ports: set[int] = field(default_factory=set)
    listen_ports: set[int] = field(default_factory=set)
    left_out: int = 0

    @property
    def entries(self) -> dict[str, int]:
        """Entries for allow_domain with the number of requests, by name."""
        return {entry(*target): count for target, count in sorted(self.allowed.items())}

    @property
    def refused(self) -> list[Denied]:
        """What was denied and never allowed, the most frequent first."""
        only = [one for target, one in self.denied.items() if target not in self.allowed]
        return sorted(only, key=lambda one: (-one.count, one.target, one.port))

    @property
    def resolve(self) -> list[str]:
        """Entries for resolve: names that led to this machine itself, which needs a pin."""
        return [
            f"{entry(*target)}:{address}"
            for target, address in sorted(self.pins.items())
            if target in self.allowed
        ]


def entry(target: str, port: int) -> str:
    """A rule for one host at one port; an IPv6 address in brackets."""
    return f"[{target}]:{port}" if ":" in target else f"{target}:{port}"


def learn(directory: Path) -> Learned:
    """Read what a session was allowed and denied; raises LogUnreadable."""
    learned = Learned()
    for record in records(directory / LOG):
        if isinstance(record.event, Network):
            _take(learned, record.event.event)
    for flow in flows(directory / FLOWS):
        _take_flow(learned, flow)
    return learned


def _take(learned: Learned, event: NetworkEvent) -> None:
    port = event.port
    if port is None or not event.target:
        return
    reason = event.reason or ""
    if event.decision == "allow" and reason.startswith((OPEN_PORT, LISTEN_PORT)):
        ports = learned.open_ports if reason.startswith(OPEN_PORT) else learned.listen_ports
        ports.add(port)
    elif event.decision in ("allow", "approve_granted"):
        _count_allowed(learned, (event.target, port))
    elif event.decision == "deny":
        _count_denied(learned, (event.target, port), reason)


def _count_allowed(learned: Learned, target: Target) -> None:
    if target in learned.allowed:
        learned.allowed[target] += 1
    elif len(learned.allowed) < MAX_TARGETS and _can_be_allowed(target):
        learned.allowed[target] = 1
    else:
        learned.left_out += 1


def _count_denied(learned: Learned, target: Target, reason: str) -> None:
    if target in learned.denied:
        learned.denied[target].count += 1
    elif len(learned.denied) < MAX_TARGETS:
        learned.denied[target] = Denied(*target, 1, reason, _can_be_allowed(target))
    else:
        learned.left_out += 1


def _can_be_allowed(target: Target) -> bool:
    """Whether a rule may say so: what a log has in the place of a host need not be one."""
    if not target[0].isascii():
        return False
    try:
        parse_allow(entry(*target))
    except UsageError:
        return False
    return True


def _take_flow(learned: Learned, flow: Flow) -> None:
    """Only a pin leads from a name to loopback, so such an address tells that there was one."""
    if flow.port is None or flow.address is None or is_localhost(flow.target):
        return
    try:
        dialled, named = parse_host(flow.address).address, parse_host(flow.target)
    except BadHost:
        return
    if dialled is None or named.address is not None:
        return
    if classify(dialled) is AddressClass.LOOPBACK and (flow.target, flow.port) in learned.allowed:
        learned.pins[flow.target, flow.port] = str(dialled)
