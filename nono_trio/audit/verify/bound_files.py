"""Checks policy.json, summary.json and session.json against the log that binds them.

Rules of this file: a file counts only by its digest in the log, and only the record in the right
place binds it: the second for the policy, the last but one for the summary. No record binds
session.json: its bytes are computed from the log, policy.json and summary.json, and compared.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec import UnsetType

from nono_trio.audit import store
from nono_trio.audit.read.records import size_of
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.evidence import is_no_file, read_bound_file
from nono_trio.audit.write.seal import (
    file_digest,
    opened_metadata,
    sealed_metadata,
    signed_attestation,
)
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.notices import POLICY_TARGET, SUMMARY_TARGET, bound_digest
from nono_trio.core.log.policy_json import decode_policy
from nono_trio.core.log.session_json import encode_metadata
from nono_trio.core.log.summary_json import decode_seal_summary
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nono_trio.audit.verify.log_check import LogCheck
    from nono_trio.audit.write.chained_log import LogPosition
    from nono_trio.core.log.events import NetworkEvent, Payload
    from nono_trio.core.log.policy_json import SessionPolicy
    from nono_trio.core.log.session_json import NonoTrioFacts, SessionMetadata
    from nono_trio.core.log.summary_json import FileDigest, SealSummary

POLICY_RECORD = "policy record missing"
SUMMARY_RECORD = "summary record missing"
POLICY_MISMATCH = "policy.json mismatch"
SUMMARY_MISMATCH = "summary.json mismatch"
SESSION_MISMATCH = "session.json mismatch"
ID_MISMATCH = "session id mismatch"
FLOWS_MISMATCH = "flows mismatch"
PROCESSES_MISMATCH = "processes mismatch"
CHECKPOINTS_MISMATCH = "checkpoints mismatch"
_CLASSES = {
    store.POLICY: POLICY_MISMATCH,
    store.SUMMARY: SUMMARY_MISMATCH,
    store.FLOWS: FLOWS_MISMATCH,
    store.PROCESSES: PROCESSES_MISMATCH,
    store.CHECKPOINTS: CHECKPOINTS_MISMATCH,
}
NO_FILE = "a directory, pipe, device or a symlink to nothing"

_File = TypeVar("_File")


class _Kind(msgspec.Struct, Generic[_File], frozen=True):
    """A file that a record binds by its digest; `missing` and `mismatch` are its failures."""

    target: str
    missing: str
    mismatch: str
    what: str
    decode: Callable[[bytes], _File]


_POLICY = _Kind(POLICY_TARGET, POLICY_RECORD, POLICY_MISMATCH, "a policy", decode_policy)
_SUMMARY = _Kind(SUMMARY_TARGET, SUMMARY_RECORD, SUMMARY_MISMATCH, "a summary", decode_seal_summary)


class Bound(msgspec.Struct):
    """The files that the log binds; the checks below fill it in, in their order."""

    directory: Path
    policy: SessionPolicy | None = None
    summary: SealSummary | None = None


def check_kinds(directory: Path) -> FirstBad | None:
    """Return the first file of a session that is no file: no crash leaves that. Raises OSError."""
    for name, failure in _CLASSES.items():
        if is_no_file(directory / name):
            return FirstBad(failure=failure, expected="a file", got=NO_FILE)
    return None


def differs(failure: str, expected: object, got: object) -> FirstBad | None:
    """Return a FirstBad without a place in the log if the two differ."""
    if expected == got:
        return None
    return FirstBad(failure=failure, expected=str(expected), got=str(got))


def check_policy(bound: Bound, second: Payload | None) -> FirstBad | None:
    """Check that the second record binds policy.json, and that it is this session's policy."""
    policy = _read_bound(bound.directory / store.POLICY, second, _POLICY)
    if isinstance(policy, FirstBad):
        return policy
    bound.policy = policy
    return differs(ID_MISMATCH, store.place_name(bound.directory), policy.session_id)


def check_summary(bound: Bound, log: LogCheck) -> FirstBad | None:
    """Check that the last record but one binds summary.json, and that it fits log and files."""
    fault = check_bound_summary(bound, log.before_last)
    if fault is not None or bound.summary is None:
        return fault
    return _check_counts(bound.summary, log) or check_files(bound.directory, bound.summary)


def check_bound_summary(bound: Bound, before_last: Payload | None) -> FirstBad | None:
    """Check that the last record but one binds summary.json."""
    summary = _read_bound(bound.directory / store.SUMMARY, before_last, _SUMMARY)
    if isinstance(summary, FirstBad):
        return summary
    bound.summary = summary
    return None


def check_files(directory: Path, summary: SealSummary) -> FirstBad | None:
    """Check that flows.ndjson and processes.ndjson are whole, and checkpoints.ndjson up to the
    summary."""
    return (
        _check_file(directory / store.FLOWS, summary.flows, FLOWS_MISMATCH)
        or _check_file(directory / store.PROCESSES, summary.processes, PROCESSES_MISMATCH)
        or _check_file(
            directory / store.CHECKPOINTS, summary.checkpoints, CHECKPOINTS_MISMATCH, grows=True
        )
    )


def expected_session(
    bound: Bound,
    log: LogCheck,
    position: LogPosition,
    network_events: list[NetworkEvent],
    *,
    sealed: bool,
) -> SessionMetadata | None:
    """Return the expected session.json, open or sealed; None if the log does not determine it."""
    if bound.policy is None or log.started is None:
        return None
    opened = opened_metadata(bound.policy, log.started.started, log.started.command)
    if not sealed:
        return opened
    if bound.summary is None or log.ended is None:
        return None
    last = log.cursor.last if log.cursor is not None else None
    try:
        attestation = signed_attestation(bound.policy, last)
    except ValueError:  # the policy names no keys: then nothing is signed
        attestation = None
    return sealed_metadata(opened, log.ended, position, network_events, bound.summary, attestation)


def check_session(
    expected: SessionMetadata, got: SessionMetadata, directory: Path | None = None
) -> FirstBad | None:
    """Compare session.json with the expected one; with `directory`, also its very bytes.

    The executable's identity is not bound before the summary: any is accepted in an open one.
    """
    for field in got.__struct_fields__:
        mine, theirs = getattr(expected, field), getattr(got, field)
        if field == "executable_identity" and expected.ended is None:
            continue
        if mine != theirs:
            return _field_fault(field, mine, theirs)
    if directory is None or encode_metadata(got) == _text(directory):
        return None
    return FirstBad(failure=SESSION_MISMATCH, expected="the file as it is written", got="another")


def _text(directory: Path) -> bytes:
    return read_whole(directory / store.SESSION, store.MAX_SESSION_BYTES)


def _field_fault(field: str, mine: object, theirs: object) -> FirstBad:
    """Compare two structs and show only the first field that differs: the whole may be long."""
    if isinstance(mine, msgspec.Struct) and type(theirs) is type(mine):
        for name in mine.__struct_fields__:
            if getattr(mine, name) != getattr(theirs, name):
                return _field_fault(f"{field}.{name}", getattr(mine, name), getattr(theirs, name))
    return FirstBad(
        failure=SESSION_MISMATCH,
        expected=_shown(f"{field} {mine}"),
        got=_shown(f"{field} {theirs}"),
    )


def _shown(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"


def _check_counts(summary: SealSummary, log: LogCheck) -> FirstBad | None:
    facts, tally, count = summary.facts, log.tally, log.chain.count
    return (
        differs(SUMMARY_MISMATCH, f"event_count {count}", f"event_count {summary.event_count}")
        or differs(SUMMARY_MISMATCH, f"allowed {tally.allowed}", f"allowed {facts.allowed_total}")
        or differs(SUMMARY_MISMATCH, f"denied {tally.denied}", f"denied {facts.denied_total}")
        or differs(SUMMARY_MISMATCH, f"lost_total {tally.lost}", f"lost_total {facts.lost_total}")
        or _check_attempts(facts, log)
    )


def _check_attempts(facts: NonoTrioFacts, log: LogCheck) -> FirstBad | None:
    """Compare the attempts; earlier versions did not count them."""
    if isinstance(facts.attempts, UnsetType):
        return None
    counted = log.attempts.totals
    return differs(SUMMARY_MISMATCH, f"attempts {counted}", f"attempts {facts.attempts}")


def _read_bound(path: Path, record: Payload | None, kind: _Kind[_File]) -> _File | FirstBad:
    """Read the file that `record` binds, or return why it does not count."""
    data = read_bound_file(path)
    bound = bound_digest(record, kind.target)
    if bound is None:
        expected = f"a record for {kind.target}"
        return FirstBad(failure=kind.missing, expected=expected, got="another record")
    if data is None:
        return FirstBad(failure=kind.mismatch, expected=f"sha256:{bound}", got="no file")
    got = hashlib.sha256(data).hexdigest()
    fault = differs(kind.mismatch, f"sha256:{bound}", f"sha256:{got}")
    if fault is not None:
        return fault
    try:
        return kind.decode(data)
    except MALFORMED as error:
        return FirstBad(failure=kind.mismatch, expected=kind.what, got=str(error))


def _check_file(
    path: Path, expected: FileDigest, failure: str, *, grows: bool = False
) -> FirstBad | None:
    if is_no_file(path):
        return FirstBad(failure=failure, expected="a file", got=NO_FILE)
    size = size_of(path)
    if grows and size >= expected.bytes:
        size = expected.bytes
    if size != expected.bytes:
        return FirstBad(failure=failure, expected=f"{expected.bytes} bytes", got=f"{size} bytes")
    return differs(failure, expected.sha256, file_digest(path, size).sha256)
