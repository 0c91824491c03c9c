"""Checks of a sealed session: session.json, final checkpoint, flows and ledger.

log_check.py has read the log before; here its end state is compared with the files beside it. Each
check returns the first difference or None, so one list of checks is the whole definition of a seal.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit.read.records import lines, size_of
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.bound_files import FLOWS_MISMATCH, SESSION_MISMATCH, differs
from nono_trio.audit.verify.checkpoints import (
    AFTER_SEAL,
    COUNT_MISMATCH,
    HEAD_MISMATCH,
    ROOT_MISMATCH,
)
from nono_trio.audit.verify.log_check import NETWORK_EVENTS
from nono_trio.audit.verify.verdict import LedgerSeen
from nono_trio.core.log.session_json import (
    HASH_ALGORITHM,
    MAX_NETWORK_EVENTS,
    session_digest,
)
from nono_trio.core.log.shown_text import counted

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.verify.log_check import LogCheck
    from nono_trio.core.log.session_json import Checkpoint, SessionMetadata

SEALED_IN_LEDGER = "sealed session opened again"
NO_SEAL = "seal missing"
NO_FINAL_CHECKPOINT = "final checkpoint missing"
LEDGER_LINE_MISSING = "ledger line missing"
DIGEST_MISMATCH = "session digest mismatch"
LAST_RECORD = "last record mismatch"


def check_integrity(
    metadata: SessionMetadata, count: int, head: str | None, root: str | None
) -> FirstBad | None:
    """Compare the log's end state with session.json's audit_integrity: upstream's rule, and
    ours."""
    stored = metadata.audit_integrity
    if stored is None:
        return FirstBad(failure=NO_SEAL, expected="audit_integrity in session.json", got="none")
    return (
        differs("hash algorithm mismatch", HASH_ALGORITHM, stored.hash_algorithm)
        or differs(COUNT_MISMATCH, stored.event_count, count)
        or differs(COUNT_MISMATCH, metadata.audit_event_count, count)
        or differs(HEAD_MISMATCH, stored.chain_head.lower(), head)
        or differs(ROOT_MISMATCH, stored.merkle_root.lower(), root)
    )


def check_final_checkpoint(last: Checkpoint | None, log_size: int) -> FirstBad | None:
    """Check that the last checkpoint is the final one and covers the log to its last byte."""
    if last is None or not last.final:
        return FirstBad(
            failure=NO_FINAL_CHECKPOINT, expected="a last checkpoint that is final", got="none"
        )
    if last.offset == log_size:
        return None
    return FirstBad(
        offset=last.offset,
        sequence=last.event_count,
        failure=AFTER_SEAL,
        expected=f"{last.offset} bytes",
        got=f"{log_size} bytes",
    )


def check_flows(last: Checkpoint, flows: Path) -> FirstBad | None:
    """Compare flows.ndjson with the final checkpoint; a missing file counts as empty."""
    hasher = hashlib.sha256()
    for line in lines(flows, size_of(flows)):
        hasher.update(line)
    return differs(FLOWS_MISMATCH, last.flows_sha256 or "a flows_sha256", hasher.hexdigest())


def check_records(log: LogCheck, metadata: SessionMetadata) -> FirstBad | None:
    """Compare the first and last record, and the network events, with session.json."""
    if log.started is None or log.ended is None:
        missing = "session_started" if log.started is None else "session_ended"
        return FirstBad(failure=LAST_RECORD, expected=f"a {missing} record", got="none")
    repeated = min(log.network_count, MAX_NETWORK_EVENTS)
    return (
        differs(SESSION_MISMATCH, f"started {log.started.started}", f"started {metadata.started}")
        or differs(
            SESSION_MISMATCH, f"command {log.started.command}", f"command {metadata.command}"
        )
        or differs(SESSION_MISMATCH, f"ended {log.ended.ended}", f"ended {metadata.ended}")
        or differs(
            SESSION_MISMATCH,
            f"exit_code {log.ended.exit_code}",
            f"exit_code {metadata.exit_code}",
        )
        or differs(
            NETWORK_EVENTS,
            counted(repeated, "event"),
            counted(len(metadata.network_events), "event"),
        )
    )


def check_lost(metadata: SessionMetadata, last: Checkpoint) -> FirstBad | None:
    """Check that session.json has the right number of lost events."""
    lost_total = metadata.facts.lost_total
    if lost_total is msgspec.UNSET:
        return None
    return differs(SESSION_MISMATCH, f"lost_total {last.lost_total}", f"lost_total {lost_total}")


def check_ledger(
    report: LedgerReport, metadata: SessionMetadata
) -> tuple[LedgerSeen, FirstBad | None]:
    """Compare the session's line in the ledger; faults of other lines are not faults of this
    session."""
    found = report.digests.get(metadata.session_id)
    digest = session_digest(metadata)
    seen = LedgerSeen(
        found=found is not None,
        imported=metadata.session_id in report.imported,
        matches=found == digest if found is not None else None,
        chain_verified=report.first_bad is None if report.present else None,
    )
    condemned = report.condemned.get(metadata.session_id)
    if condemned is not None:
        return seen, FirstBad(
            failure=f"ledger {condemned.failure}",
            expected=f"{condemned.expected} (line {condemned.line} of ledger.ndjson)",
            got=condemned.got,
        )
    if found is None:
        return seen, FirstBad(
            failure=LEDGER_LINE_MISSING,
            expected=f"a line for {metadata.session_id} in ledger.ndjson",
            got=f"{report.count} other lines",
        )
    return seen, differs(DIGEST_MISMATCH, found, digest)
