"""`audit forget`: remove a session on purpose, so that its absence raises no alarm.

Rules of this file: the ledger's line comes first. A crash after it leaves a session that exists and
can be forgotten again. Then the directory is renamed, and then removed. A session that runs or is
being recovered is refused.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from nono_trio.audit import ledger, store
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.session_files import lock
from nono_trio.core.log.session_json import session_digest
from nono_trio.errors import LogUnreadable, NonoTrioError
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.disk_sync import sync_directory
from nono_trio.posix.owner import as_owner

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN_DIGEST = "0" * 64  # of a session that was never sealed and has no session.json


def forget(audit_root: Path, session_id: str) -> None:
    """Record in the ledger that a session is removed, then remove its directory. Blocking.

    For a missing directory only the ledger's line is added. Raises LogUnreadable for a session that
    neither directory nor ledger knows, NonoTrioError for a running one, AuditLost, OSError.
    """
    directory = audit_root / session_id
    report = ledger.verify(audit_root, session_id)
    if not os.path.lexists(directory):
        if not report.has_line_for(session_id):
            raise LogUnreadable(f"expected a session, got {session_id!r}, which is none")
        _say_removed(audit_root, session_id, report)
        return
    if directory.is_symlink() or not directory.is_dir():
        raise LogUnreadable(f"{directory} is no directory, so no session is removed")
    with as_owner(directory):
        held = _hold(directory)
        try:
            _say_removed(audit_root, session_id, report)
            _remove(directory)
        finally:
            if held is not None:
                os.close(held)
    sync_directory(audit_root)


def _remove(directory: Path) -> None:
    """Rename the directory, then remove it: half of a session would look like a tampered one."""
    hidden = directory.with_name(store.REMOVING + directory.name)
    if hidden.exists():  # left by an earlier removal
        shutil.rmtree(hidden)
    directory.rename(hidden)
    sync_directory(directory.parent)
    shutil.rmtree(hidden)


def _say_removed(audit_root: Path, session_id: str, report: ledger.LedgerReport) -> None:
    if session_id in report.removed:
        return
    digest = report.digests.get(session_id) or _digest(audit_root / session_id)
    ledger_append.append_removed(audit_root, session_id, digest, rfc3339())


def _digest(directory: Path) -> str:
    try:
        return session_digest(store.read_metadata(directory))
    except LogUnreadable:
        return UNKNOWN_DIGEST


def _hold(directory: Path) -> int | None:
    """Hold the session's lock, or raise NonoTrioError; None if there is no log to lock."""
    try:
        descriptor = os.open(directory / store.LOG, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        raise NonoTrioError(
            f"session {directory.name} is running", hint=f"nono-trio stop {directory.name}"
        ) from None
    return descriptor
