"""Records of files that the cage asked for and was not granted, made and read.

The payload is upstream's for a requested path (`capability_decision`). Its backend is the part that
decided: the view of the file system, which does not show the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.log.nono_events import (
    CapabilityDecision,
    CapabilityEntry,
    CapabilityRequest,
    DenialReason,
    Denied,
    Timestamp,
)

if TYPE_CHECKING:
    from nono_trio.core.log.events import Payload

FileAccess: TypeAlias = Literal["Read", "Write"]

BACKEND: Final = "view"
NOT_GRANTED: Final = "not granted"
_LEADS_TO: Final = f"{NOT_GRANTED}; it leads to "
# Stands for a path where a record counts many; no path of a file begins so.
MORE_FILES: Final = "nono-trio:view"
_UNSEEN_FILES: Final = "nono-trio:unseen"
_NANOSECONDS: Final = 10**9
_NANOSECONDS_A_MS: Final = 10**6
_DIGITS: Final = 18  # a log may hold any text


def denied_file(
    path: str,
    access: FileAccess,
    *,
    process: int,
    number: int,
    session_id: str,
    unix_ns: int,
    reason: str = NOT_GRANTED,
) -> CapabilityDecision:
    """The record of a look-up by `process`; `number` counts the session's, `unix_ns` is its time
    in nanoseconds since 1970."""
    seconds, nanoseconds = divmod(unix_ns, _NANOSECONDS)
    return CapabilityDecision(
        entry=CapabilityEntry(
            timestamp=Timestamp(secs_since_epoch=seconds, nanos_since_epoch=nanoseconds),
            request=CapabilityRequest(
                request_id=f"{BACKEND}-{number}",
                path=path,
                access=access,
                child_pid=process,
                session_id=session_id,
            ),
            decision=Denied(Denied=DenialReason(reason=reason)),
            backend=BACKEND,
            duration_ms=0,
        )
    )


def leading_to(real: str) -> str:
    """The reason for a path that is a symlink, or behind one, to `real`."""
    return f"{_LEADS_TO}{real}"


def real_path(payload: CapabilityDecision) -> str | None:
    """The path that the one in the record leads to, if its reason says so."""
    decision = payload.entry.decision
    reason = decision.Denied.reason if isinstance(decision, Denied) else ""
    return reason.removeprefix(_LEADS_TO) if reason.startswith(_LEADS_TO) else None


def more_denied_files(count: int, session_id: str, unix_ns: int) -> CapabilityDecision:
    """The record of `count` look-ups that have none of their own."""
    return denied_file(
        MORE_FILES,
        "Read",
        process=0,
        number=0,
        session_id=session_id,
        unix_ns=unix_ns,
        reason=f"{count} more look-ups of files were not recorded one by one",
    )


def unseen_files(count: int, session_id: str, unix_ns: int) -> CapabilityDecision:
    """The record of `count` look-ups that decide about the exit code and have no other record."""
    return denied_file(
        _UNSEEN_FILES,
        "Read",
        process=0,
        number=0,
        session_id=session_id,
        unix_ns=unix_ns,
        reason=f"{count} look-ups of files that decide about this run were lost",
    )


def unseen_count(payload: CapabilityDecision) -> int:
    """The number in a record of `unseen_files`; 0 for every other record."""
    request, decision = payload.entry.request, payload.entry.decision
    if not isinstance(request, CapabilityRequest) or not isinstance(decision, Denied):
        return 0
    count = decision.Denied.reason.partition(" ")[0]
    is_number = count.isascii() and count.isdigit() and len(count) <= _DIGITS
    return int(count) if is_number and request.path == _UNSEEN_FILES else 0


def access_word(access: str) -> str:
    """Return the word for users: a file is known to be written only if it was to be created."""
    return "create" if access == "Write" else "read"


class DeniedEntry(msgspec.Struct, frozen=True):
    """The content of a record of the view; `path` is MORE_FILES where it counts many."""

    path: str
    access: str
    reason: str
    unix_ms: int


def denied_entry(payload: Payload) -> DeniedEntry | None:
    """The content of a record of the view; None for every other record."""
    request = denied_request(payload)
    if request is None or not isinstance(payload, CapabilityDecision):
        return None
    entry = payload.entry
    if not isinstance(entry.decision, Denied):
        return None
    time = entry.timestamp
    unix_ms = time.secs_since_epoch * 1000 + time.nanos_since_epoch // _NANOSECONDS_A_MS
    return DeniedEntry(request.path, request.access, entry.decision.Denied.reason, unix_ms)


def denied_request(payload: Payload) -> CapabilityRequest | None:
    """The path that a record of the view is about; None for every other record."""
    if not isinstance(payload, CapabilityDecision) or payload.entry.backend != BACKEND:
        return None
    request = payload.entry.request
    if not isinstance(request, CapabilityRequest) or request.path == _UNSEEN_FILES:
        return None
    return request if isinstance(payload.entry.decision, Denied) else None
