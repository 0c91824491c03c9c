"""The verdict on a ledger without its sessions: its lines, its links and its signed checkpoints.

`audit verify --all` compares the sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit import ledger as ledgers
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.bound_files import NO_FILE
from nono_trio.audit.verify.evidence import is_no_file
from nono_trio.audit.verify.verdict import LedgerSeen, Verification
from nono_trio.core.log.shown_text import counted
from nono_trio.errors import unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.core.proof.public_keys import PublicKeys
    from nono_trio.core.proof.witness import WitnessKey

LEDGER_REPLACED: Final = "ledger replaced"


def verify_ledger(
    path: Path, pinned: PublicKeys | None = None, witnesses: Sequence[WitnessKey] = ()
) -> Verification:
    """Judge a ledger by its own lines, links and signed checkpoints, without sessions.

    Each of the `witnesses` must have cosigned it. Raises LogUnreadable.
    """
    kept = [ledgers.LEDGER_COSIGNATURES] if witnesses else []
    for name in (path.name, ledgers.LEDGER_CHECKPOINTS, *kept):
        if is_replaced(path.with_name(name)):
            fault = FirstBad(failure=LEDGER_REPLACED, expected=f"a file {name}", got=NO_FILE)
            return Verification(verdict="tampered", path=str(path), first_bad=fault)
    report = ledgers.verify_file(path)
    answer = Verification(
        verdict="verified",
        path=str(path),
        event_count=report.count,
        chain_head=report.chain_head,
        ledger=LedgerSeen(chain_verified=report.first_bad is None),
        notes=[
            f"a ledger of {counted(report.count, 'good line')},"
            f" {counted(len(report.removed), 'session')} removed"
        ],
    )
    if report.torn_tail:
        answer.notes.append("its last line is torn: what a crash leaves")
    if report.first_bad is not None:
        bad = report.first_bad
        answer.verdict = "tampered"
        answer.first_bad = FirstBad(
            line=bad.line,
            offset=bad.offset,
            failure=f"ledger {bad.failure}",
            expected=bad.expected,
            got=bad.got,
        )
    if pinned is not None or ledgers.is_signed(path):
        # Late: few ledgers are signed.
        from nono_trio.audit.verify.ledger_signatures import judge_ledger_signatures

        judge_ledger_signatures(answer, path, pinned)
    if witnesses:
        from nono_trio.audit.verify.ledger_cosignatures import judge_cosignatures

        judge_cosignatures(answer, path, witnesses, pinned)
    return answer


def is_replaced(path: Path) -> bool:
    """Return whether no file is in the place of a ledger's file; raises LogUnreadable."""
    try:
        return is_no_file(path)
    except OSError as error:
        raise unreadable(path, error) from error
