"""Network records about the log itself, not about the network: their targets and texts.

Upstream's format has no record for them. So they are network events whose target begins with
OWN_TARGETS, which no host name can. Every such text is written and read here. Rules of this file: a
binding record holds the SHA-256 of one file. It binds the file only in its own place: the policy's
record is the second of a log, the summary's the last but one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern
from nono_trio.core.log.events import Network, NetworkEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.log.events import Payload

OWN_TARGETS: Final = "nono-trio:"
# Gaps in the log, and the work of a recovery.
LOST_TARGET: Final = f"{OWN_TARGETS}audit"
POLICY_TARGET: Final = f"{OWN_TARGETS}policy"
SUMMARY_TARGET: Final = f"{OWN_TARGETS}summary"
# Denials without a record of their own, or of an unknown host.
LOOK_UPS_TARGET: Final = f"{OWN_TARGETS}dns"
CHALLENGES_TARGET: Final = f"{OWN_TARGETS}challenges"
REFUSED_PORTS_TARGET: Final = f"{OWN_TARGETS}refused"
DIRECT_TARGET: Final = f"{OWN_TARGETS}direct"
BINDING_TARGETS: Final = (POLICY_TARGET, SUMMARY_TARGET)

NO_TOKEN: Final = "authentication_failed"

POLICY_SEQUENCE: Final = 1  # of the policy's record; 0 is session_started

# Two reasons why events are missing; the third is the system's text for a failed write.
QUEUE_FULL: Final = "queue full"
NOT_RECORDED: Final = "the supervisor was lost before it recorded that"

_RECOVERED: Final = "recovered: "
_POLICY_TAKEN: Final = "; the policy is taken from policy.json"
_DIGEST: Final = late_pattern(r"sha256:([0-9a-f]{64})")
_GAP: Final = late_pattern(r"([0-9]{1,18}) events lost: ")


def is_about_log(event: NetworkEvent) -> bool:
    """Return True if an event is about the log (or about many requests), not about one request."""
    return event.target.startswith(OWN_TARGETS)


def is_denial(event: NetworkEvent) -> bool:
    """Return True if an event counts as denied.

    A request without the right token does not count: it is no evidence of what the command tries to
    reach, many clients begin with one, and other programs may send it to a port of the machine.
    """
    return (
        event.decision == "deny" and event.denial_category != NO_TOKEN and not is_about_log(event)
    )


def is_binding(event: NetworkEvent) -> bool:
    """Return True if an event only holds the digest of a file beside the log."""
    return event.target in BINDING_TARGETS


def binding_record(target: str, data: bytes, unix_ms: int) -> Network:
    """Return the record that binds a file with the bytes `data`; `target` names the file."""
    reason = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return _record("allow", target, reason, unix_ms)


def bound_digest(payload: Payload | None, target: str) -> str | None:
    """Return the SHA-256 (hex) in the record that binds a file of `target`; None for any other
    record."""
    if not isinstance(payload, Network):
        return None
    event = payload.event
    if (event.target, event.mode, event.decision, event.port) != (target, "connect", "allow", None):
        return None
    match = _DIGEST.fullmatch(event.reason or "")
    return match[1] if match is not None else None


def early_end_record(message: str, unix_ms: int) -> Network:
    """Return the record of a log that ends before its session, because it can't be written."""
    return _record("deny", LOST_TARGET, f"ended: {message}", unix_ms)


def recovery_record(
    torn_bytes: int, kept_in: str, unix_ms: int, *, start_taken: bool, policy_taken: bool
) -> Network:
    """Return the record of a recovery.

    `torn_bytes` is the size of the incomplete record that was moved to the file `kept_in`.
    `start_taken` and `policy_taken`: the log ended before these records, so they were made from
    session.json and policy.json.
    """
    text = f"{_RECOVERED}{torn_bytes} bytes of a torn record cut"
    text += f", kept in {kept_in}" if torn_bytes else ""
    text += "; session_started is taken from session.json" if start_taken else ""
    text += _POLICY_TAKEN if policy_taken else ""
    return _record("deny", LOST_TARGET, text, unix_ms)


def says_policy_was_taken(payload: Payload) -> bool:
    """Return True if a record says that a recovery bound the policy."""
    if not isinstance(payload, Network) or payload.event.target != LOST_TARGET:
        return False
    reason = payload.event.reason or ""
    return reason.startswith(_RECOVERED) and _POLICY_TAKEN in reason


def gap_record(count: int, reason: str, unix_ms: int) -> Network:
    """Return the record of `count` events that are missing before it."""
    return _record("deny", LOST_TARGET, f"{count} events lost: {reason}", unix_ms)


def lost_events(event: NetworkEvent) -> int:
    """Return the number of missing events in a record; 0 for any other record.

    A request can't forge one: no host is called LOST_TARGET.
    """
    if event.target != LOST_TARGET:
        return 0
    match = _GAP.match(event.reason or "")
    return int(match[1]) if match is not None else 0


class Tally:
    """Counts of a log by the rule that all readers and writers share.

    Decisions are counted without those about the log; `lost` adds up the gap records.
    """

    def __init__(self) -> None:
        self.allowed = 0
        self.denied = 0
        self.lost = 0

    def add(self, payload: Payload, times: int = 1) -> None:
        """Count one record, or as many that say the same."""
        if not isinstance(payload, Network):
            return
        event = payload.event
        if is_about_log(event):
            self.lost += lost_events(event) * times
            return
        if event.decision == "allow":
            self.allowed += times
        if is_denial(event):
            self.denied += times

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
