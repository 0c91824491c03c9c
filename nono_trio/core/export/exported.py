"""The exported lines: those of a session's files, joined, with the facts of their session.

Rules of this file: an id is made of the session and the sequence of a record only, so a line that
is sent twice has the same id. A time that a format can't hold is left out there, never changed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.log.events import (
    Flow,
    Network,
    NetworkEvent,
    Payload,
    SandboxRuntime,
    SessionEnded,
    SessionStarted,
)
from nono_trio.core.log.file_events import denied_entry
from nono_trio.core.log.nono_events import CapabilityDecision, CommandPolicy, UrlOpen
from nono_trio.core.log.notices import is_about_log
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.outcome import Outcome, outcome_of, read_reason
from nono_trio.core.policy.reasons import DenialCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.log.processes import ProcessLine

Kind: TypeAlias = Literal[
    "session_started",
    "session_ended",
    "cage",
    "decision",
    "lookup",
    "file",
    "notice",
    "approval",
    "url_open",
    "command_policy",
    "flow",
    "tampered",
    "removed",
]

PRODUCT: Final = "nono-trio"
MAX_LONG: Final = 2**63 - 1  # of the integers that every format holds
_EXFILTRATION: Final = frozenset({DenialCode.EXFILTRATION, DenialCode.EXFILTRATION_LATE})


class SessionFacts(msgspec.Struct, kw_only=True, frozen=True):
    """The facts of a session that every format repeats; the log binds them.

    `key_id` is that of the session's signing key. `command` is redacted.
    """

    session_id: str
    name: str | None = None
    started: str = ""
    command: list[str] = []
    working_directory: str = ""
    isolation: str = ""
    host: str = ""
    user: str = ""
    user_id: int | None = None
    system: str = ""
    version: str = ""
    key_id: str | None = None


class RecordLine(msgspec.Struct, kw_only=True, frozen=True):
    """One record of the log, with the programs that had its connection open.

    `event_json` is the text that was hashed; hashes are hex, as in the log.
    """

    sequence: int
    event: Payload
    event_json: str
    prev_chain: str | None
    leaf_hash: str
    chain_hash: str
    programs: Sequence[ProcessLine] = ()


class FlowLine(msgspec.Struct, kw_only=True, frozen=True):
    """The end of one connection or request, with its decision if that is known."""

    flow: Flow
    decision: NetworkEvent | None = None


class FaultLine(msgspec.Struct, kw_only=True, frozen=True):
    """A fault that a shipper has met: the session is tampered with, or was removed before it was
    sent whole. `sequence` is that of the first record that is not sent."""

    kind: Literal["tampered", "removed"]
    sequence: int
    unix_ms: int
    message: str


Exported: TypeAlias = RecordLine | FlowLine | FaultLine


def sequence_of(line: Exported) -> int:
    """Return the sequence of a line's record."""
    return line.flow.sequence if isinstance(line, FlowLine) else line.sequence


def event_id(session_id: str, line: Exported) -> str:
    """Return the id of a line: `SESSION/SEQUENCE` for a record, with `/flow` for its flow, and
    `SESSION/tampered` or `SESSION/removed`."""
    if isinstance(line, FaultLine):
        return f"{session_id}/{line.kind}"
    if isinstance(line, RecordLine):
        return f"{session_id}/{line.sequence}"
    return f"{session_id}/{line.flow.sequence}/flow"


def kind_of(line: Exported) -> Kind:
    """Return what a line is about."""
    if isinstance(line, FlowLine):
        return "flow"
    if isinstance(line, FaultLine):
        return line.kind
    event = line.event
    if isinstance(event, Network):
        if is_about_log(event.event):
            return "notice"
        return "lookup" if event.event.method == LOOK_UP else "decision"
    if isinstance(event, CapabilityDecision):
        return "approval" if denied_entry(event) is None else "file"
    return _KINDS[type(event)]


_KINDS: Final[dict[type, Kind]] = {
    SessionStarted: "session_started",
    SessionEnded: "session_ended",
    SandboxRuntime: "cage",
    UrlOpen: "url_open",
    CommandPolicy: "command_policy",
}


def first_found(programs: Sequence[ProcessLine]) -> ProcessLine | None:
    """Return the first program with a process id, as most formats name one process of a record."""
    return next((one for one in programs if one.pid is not None), None)


def refusal_of(event: NetworkEvent) -> Outcome | None:
    """Return what a refused request counts as; None for one that was not refused."""
    return outcome_of(event) if event.decision == "deny" else None


def is_exfiltration(event: NetworkEvent) -> bool:
    """Return True for a refused request that had the stand-in of a credential in it."""
    return event.decision == "deny" and read_reason(event.reason or "").code in _EXFILTRATION


def bounded(number: int) -> int:
    """Return the number from 0 to MAX_LONG that is nearest."""
    return min(max(number, 0), MAX_LONG)


def unix_ms_of(line: Exported, facts: SessionFacts) -> int:
    """Return the time of a line in milliseconds since 1970.

    A record without a time has that of the session's start; 0 if even that can't be read.
    """
    if isinstance(line, FlowLine):
        return line.flow.opened_unix_ms + line.flow.duration_ms
    if isinstance(line, FaultLine):
        return line.unix_ms
    event = line.event
    if isinstance(event, Network):
        return event.event.timestamp_unix_ms
    if isinstance(event, CapabilityDecision):
        time = event.entry.timestamp
        return time.secs_since_epoch * 1000 + time.nanos_since_epoch // 1_000_000
    return _parsed_ms(_text_time(event, facts))


def _text_time(event: Payload, facts: SessionFacts) -> str:
    if isinstance(event, SessionStarted):
        return event.started
    if isinstance(event, SessionEnded):
        return event.ended
    if isinstance(event, SandboxRuntime | CommandPolicy):
        return event.event.timestamp
    return facts.started


def _parsed_ms(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        return max(0, int(time.timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0
