"""The verdict on a target that is no readable session: the ledger may know that one was there."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from nono_trio.audit import ledger as ledgers
from nono_trio.audit import store
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.evidence import NoSession, session_directory
from nono_trio.audit.verify.verdict import LedgerSeen, Verification
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport

UNFINISHED_IMPORT: Final = "its import was not finished"
SESSION_GONE: Final = "session gone or replaced"


def verify_missing(audit_root: Path, session_id: str, ledger: LedgerReport) -> Verification:
    """Return the answer for a session that only the ledger knows."""
    path = audit_root / session_id
    removed = session_id in ledger.removed
    seen = LedgerSeen(found=True, removed=removed, chain_verified=ledger.first_bad is None)
    if removed:
        return Verification(
            verdict="unreadable",
            path=str(path),
            session_id=session_id,
            ledger=seen,
            notes=[
                "it was removed on purpose (`audit forget`, `audit cleanup`); the ledger keeps its"
                " digest"
            ],
        )
    imported = session_id in ledger.imported
    note = "its directory is gone"
    if imported and _has_unfinished_import(audit_root, session_id):
        note = UNFINISHED_IMPORT
    return Verification(
        verdict="missing",
        path=str(path),
        session_id=session_id,
        ledger=seen,
        notes=[f"the ledger says that it was {'imported' if imported else 'sealed'}, and {note}"],
    )


def _has_unfinished_import(audit_root: Path, session_id: str) -> bool:
    """Return whether there is what an import leaves that was killed before the session's name."""
    beginning = f"{store.IMPORTING}{session_id}."
    with contextlib.suppress(OSError), os.scandir(audit_root) as entries:
        return any(entry.name.startswith(beginning) for entry in entries)
    return False


def is_removed(answer: Verification) -> bool:
    """Return True for the answer about a session that was removed on purpose."""
    return answer.ledger.removed


def verify_without_session(target: Path, error: LogUnreadable) -> Verification:
    """Return the answer for a missing or unreadable session: worse, if the ledger knows the
    session."""
    removed = removed_meanwhile(target)
    if removed is not None:
        return removed
    notes = [error.message]
    if error.hint is not None:
        notes.append(error.hint)
    answer = Verification(verdict="unreadable", path=str(target), notes=notes)
    directory = session_directory(target) or target
    try:
        report = ledgers.verify(directory.parent, directory.name)
    except LogUnreadable:
        return answer
    if not report.knows(directory.name):
        return answer
    answer.session_id = directory.name
    answer.ledger = LedgerSeen(found=True, chain_verified=report.first_bad is None)
    if not directory.exists() and not directory.is_symlink():
        return verify_missing(directory.parent, directory.name, report)
    if isinstance(error, NoSession):
        answer.verdict = "tampered"
        expected = f"the session that the ledger knows as {directory.name}"
        answer.first_bad = FirstBad(failure=SESSION_GONE, expected=expected, got=error.message)
    return answer


def removed_meanwhile(target: Path) -> Verification | None:
    """Return the answer about a session that is gone because it was removed on purpose, also where
    `target` is a file of it; None for any other. What was read of it before does not count."""
    for directory in (target, target.parent):
        report = ledgers.removal_of(directory) if store.is_session_id(directory.name) else None
        if report is not None:
            return verify_missing(directory.parent, directory.name, report)
    return None
