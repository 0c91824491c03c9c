"""What makes a log that is good by itself not the one that its session's files and ledger bind.

Rules of this file: pure comparison of what others have read; the first fault is the answer, and
nothing here decides a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit import ledger as ledgers
from nono_trio.audit.read.records import is_zeros
from nono_trio.audit.store import SESSION
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
    """What makes a log that is good by itself not the one that its files and the ledger bind.

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
    """What keeps policy.json and summary.json from being what the log binds."""
    if check.chain.count <= POLICY_SEQUENCE:
        return None
    fault = bounds.check_policy(bound, check.second)
    if fault is None and check.ended is not None:
        fault = bounds.check_summary(bound, check)
    return fault


def _session_fault(
    evidence: Evidence, check: LogCheck, bound: Bound, events: list[NetworkEvent]
) -> FirstBad | None:
    """What session.json says beyond log, policy and summary."""
    if evidence.metadata is None:
        return None
    expected = bounds.expected_session(
        bound, check, _position(check), events, sealed=evidence.sealed
    )
    if expected is None:
        return None
    return bounds.check_session(expected, evidence.metadata, bound.directory)


def _tail_fault(evidence: Evidence, check: LogCheck) -> FirstBad | None:
    """Bytes after an end: no crash leaves them, but a file system may leave zeros."""
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
    covered = check.cursor.whole_bytes if check.cursor is not None else 0
    if not evidence.sealed or covered == evidence.checkpoints_size:
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
    """A session that says it was never sealed while the ledger has its line."""
    session_id = bound.directory.resolve().name
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
    """The report on the ledger beside a session; an old one may not know what was sealed since."""
    if ledger is None or not ledger.has_line_for(session_id):
        return ledgers.verify(directory.resolve().parent, session_id)
    return ledger
