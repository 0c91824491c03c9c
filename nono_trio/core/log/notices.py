"""Network records that are about the log itself, not about the network: their targets and texts.

Upstream's format has no record for them, so they are network events whose target begins with
OWN_TARGETS, which no host name can. Everything that writes or reads such a text lives here.
Rules of this file: a binding record holds the SHA-256 of one file, and binds it only in its own
place: the policy's record is the second of a log, the summary's the last but one.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.events import Network, NetworkEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.log.events import Payload

OWN_TARGETS: Final = "nono-trio:"
# Gaps in the log, and what a recovery did.
LOST_TARGET: Final = f"{OWN_TARGETS}audit"
POLICY_TARGET: Final = f"{OWN_TARGETS}policy"
SUMMARY_TARGET: Final = f"{OWN_TARGETS}summary"
# Denials that have no record of their own, or of which no host is known.
LOOK_UPS_TARGET: Final = f"{OWN_TARGETS}dns"
REFUSED_PORTS_TARGET: Final = f"{OWN_TARGETS}refused"
DIRECT_TARGET: Final = f"{OWN_TARGETS}direct"
BINDING_TARGETS: Final = (POLICY_TARGET, SUMMARY_TARGET)

# What a recovery says of a log that was lost before its policy's record.
POLICY_TAKEN: Final = "; the policy is taken from policy.json"
NO_TOKEN: Final = "authentication_failed"

POLICY_SEQUENCE: Final = 1  # of the policy's record; 0 is session_started

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_GAP: Final = re.compile(r"([0-9]{1,18}) events lost: ")


def is_about_log(event: NetworkEvent) -> bool:
    """Whether an event is about the log (or about many requests at once), not about one request."""
    return event.target.startswith(OWN_TARGETS)


def is_denial(event: NetworkEvent) -> bool:
    """Whether an event counts as one that was denied.

    A request without the right token does not: it says nothing of what the command may reach, many
    clients begin with one, and on a port of the machine anybody may send it.
    """
    return (
        event.decision == "deny" and event.denial_category != NO_TOKEN and not is_about_log(event)
    )


def is_binding(event: NetworkEvent) -> bool:
    """Whether an event only holds the digest of a file beside the log."""
    return event.target in BINDING_TARGETS


def binding_record(target: str, data: bytes, unix_ms: int) -> Network:
    """The record that binds a file whose bytes are `data`; `target` says which file."""
    reason = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return _record("allow", target, reason, unix_ms)


def bound_digest(payload: Payload | None, target: str) -> str | None:
    """The SHA-256 (hex) that a record binds a file of `target` to; None for any other record."""
    if not isinstance(payload, Network):
        return None
    event = payload.event
    if (event.target, event.mode, event.decision, event.port) != (target, "connect", "allow", None):
        return None
    match = _DIGEST.fullmatch(event.reason or "")
    return match[1] if match is not None else None


def note_record(text: str, unix_ms: int) -> Network:
    """A record that says something about the log, for example what a recovery cut."""
    return _record("deny", LOST_TARGET, text, unix_ms)


def gap_record(count: int, reason: str, unix_ms: int) -> Network:
    """The record of `count` events that are missing before it."""
    return note_record(f"{count} events lost: {reason}", unix_ms)


def says_policy_was_taken(payload: Payload) -> bool:
    """Whether a record says that a recovery bound a policy that no record had bound."""
    if not isinstance(payload, Network) or payload.event.target != LOST_TARGET:
        return False
    reason = payload.event.reason or ""
    return reason.startswith("recovered: ") and POLICY_TAKEN in reason


def lost_events(event: NetworkEvent) -> int:
    """How many events a record says are missing; 0 for any other record.

    A request can't forge one: no host is called LOST_TARGET.
    """
    if event.target != LOST_TARGET:
        return 0
    match = _GAP.match(event.reason or "")
    return int(match[1]) if match is not None else 0


class Tally:
    """Counts of a log by the rule that every reader and writer shares.

    Decisions are counted without those about the log; `lost` adds up the gap records.
    """

    def __init__(self) -> None:
        self.allowed = 0
        self.denied = 0
        self.lost = 0

    def add(self, payload: Payload) -> None:
        """Count one record."""
        if not isinstance(payload, Network):
            return
        event = payload.event
        if is_about_log(event):
            self.lost += lost_events(event)
            return
        self.allowed += event.decision == "allow"
        self.denied += is_denial(event)

    def add_all(self, payloads: Sequence[Payload]) -> None:
        """Count records."""
        for payload in payloads:
            self.add(payload)


def _record(decision: str, target: str, reason: str, unix_ms: int) -> Network:
    event = NetworkEvent(
        timestamp_unix_ms=unix_ms,
        mode="connect",
        decision=decision,  # type: ignore[arg-type]  # one of the two above
        target=target,
        reason=reason,
    )
    return Network(event=event)
