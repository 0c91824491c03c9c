"""Compares a good log with the session files and the ledger that bind it.

Rules of this file: it only compares data that others have read. The first fault is the answer; no
verdict is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit import ledger as ledgers
from nono_trio.audit.read.records import is_zeros
from nono_trio.audit.store import SESSION, place_name
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify import bound_files as bounds
from nono_trio.audit.verify import seal_check as seal
from nono_trio.audit.verify.checkpoints import AFTER_SEAL
from nono_trio.audit.write.chained_log import LogPosition
from nono_trio.core.log.notices import POLICY_SEQUENCE
from nono_trio.core.log.session_json import session_digest

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.verify.bound_files import Bound
    from nono_trio.audit.verify.checkpoints import CheckpointCursor
    from nono_trio.audit.verify.evidence import Evidence
    from nono_trio.audit.verify.log_check import LogCheck
    from nono_trio.core.log.events import NetworkEvent


def binding_fault(
    evidence: Evidence,
    check: LogCheck,
    bound: Bound,
    events: list[NetworkEvent],
    ledger: LedgerReport | None = None,
) -> FirstBad | None:
    """Return the first fault between a good log and its session's files and ledger.

    `events` are the first network events of the log; `bound` is filled in.
    """
    if not evidence.ours:
        return None
    fault = (
        _bound_fault(evidence, check, bound)
        or _session_fault(evidence, check, bound, events)
        or _tail_fault(evidence, check)
    )
    if fault is not None or evidence.sealed:
        return fault
    return _opened_fault(evidence, check, bound, events, ledger)


def _bound_fault(evidence: Evidence, check: LogCheck, bound: Bound) -> FirstBad | None:
    """Return the first fault between the log and policy.json or summary.json."""
    if check.chain.count <= POLICY_SEQUENCE:
        return None
    fault = bounds.check_policy(bound, check.second)
    if fault is None and check.ended is not None:
        fault = bounds.check_summary(bound, check)
    return fault


def _session_fault(
    evidence: Evidence, check: LogCheck, bound: Bound, events: list[NetworkEvent]
) -> FirstBad | None:
    """Return the first fault of session.json against log, policy and summary."""
    if evidence.metadata is None:
        return None
    expected = bounds.expected_session(
        bound, check, _position(check), events, sealed=evidence.sealed
    )
    if expected is None:
        return None
    return bounds.check_session(expected, evidence.metadata, bound.directory)


def _tail_fault(evidence: Evidence, check: LogCheck) -> FirstBad | None:
    """Return the fault of bytes after an end: a crash leaves none, but a file system may leave
    zeros."""
    if check.ended is None or evidence.alive:
        return None
    if check.torn_bytes and not is_zeros(evidence.log, check.good_bytes):
        end = check.good_bytes
        return FirstBad(
            offset=end,
            sequence=check.chain.count,
            failure=AFTER_SEAL,
            expected=f"{end} bytes",
            got=f"{end + check.torn_bytes} bytes",
        )
    return checkpoints_end_fault(evidence, check.cursor) if evidence.sealed else None


def checkpoints_end_fault(evidence: Evidence, cursor: CheckpointCursor | None) -> FirstBad | None:
    """Return the fault of bytes after the final checkpoint of a seal."""
    covered = cursor.whole_bytes if cursor is not None else 0
    if covered == evidence.checkpoints_size:
        return None
    return FirstBad(
        failure=bounds.CHECKPOINTS_MISMATCH,
        expected=f"{covered} bytes, to the end of the final one",
        got=f"{evidence.checkpoints_size} bytes",
    )


def _position(check: LogCheck) -> LogPosition:
    chain = check.chain
    return LogPosition(
        event_count=chain.count,
        offset=check.good_bytes,
        chain_head=chain.head.hex() if chain.head else None,
        merkle_root=chain.tree.root().hex(),
        segment_xxh3="",
    )


def _opened_fault(
    evidence: Evidence,
    check: LogCheck,
    bound: Bound,
    events: list[NetworkEvent],
    ledger: LedgerReport | None,
) -> FirstBad | None:
    """Return the fault of a session that says it was never sealed while the ledger has its line."""
    session_id = place_name(bound.directory)
    report = current_report(bound.directory, session_id, ledger)
    if not report.has_line_for(session_id):
        return None
    digest = report.digests.get(session_id, "a line that is damaged")
    expected = bounds.expected_session(bound, check, _position(check), events, sealed=True)
    last = check.cursor.last if check.cursor is not None else None
    if expected is None or last is None or not last.final or evidence.metadata is None:
        got = "an unsealed one" if evidence.metadata is not None else f"no {SESSION}"
        return FirstBad(
            failure=seal.SEALED_IN_LEDGER, expected=f"the session with digest {digest}", got=got
        )
    return bounds.differs(seal.SEALED_IN_LEDGER, digest, session_digest(expected))


def current_report(directory: Path, session_id: str, ledger: LedgerReport | None) -> LedgerReport:
    """Return the report on the ledger beside a session; an old report may lack a later line."""
    if ledger is None or not ledger.has_line_for(session_id):
        return ledgers.verify(directory.resolve().parent, session_id)
    return ledger
