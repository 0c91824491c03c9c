"""Finishes an import that was killed between its line in the ledger and the session's name.

Rules of this file: what is left may also be the half of another import, so only a session that is
`verified` and has the digest of the ledger's line gets its name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nono_trio.audit import ledger, store
from nono_trio.audit.verify.carried_ledger import carried_report
from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import ledger_append
from nono_trio.core.log.session_json import session_digest
from nono_trio.posix.disk_sync import sync_directory

if TYPE_CHECKING:
    from pathlib import Path


def finish_import(hidden: Path) -> bool:
    """Give the session in a directory that an import has left its name, if the ledger has it.

    Returns whether it did. Raises LogUnreadable, AuditLost and OSError.
    """
    root = hidden.parent
    session_id = hidden.name.removeprefix(store.IMPORTING).partition(".")[0]
    directory, target = hidden / session_id, root / session_id
    if not _is_wanted(root, session_id) or not directory.is_dir():
        return False
    if verify(directory, ledger=carried_report(directory)).verdict != "verified":
        return False
    digest = session_digest(store.read_metadata(directory))
    with ledger_append.to_append(root):
        report = ledger.verify(root, session_id)
        if report.digests.get(session_id) != digest or not _is_wanted(root, session_id):
            return False
        directory.rename(target)
        sync_directory(root)
    return True


def _is_wanted(root: Path, session_id: str) -> bool:
    """Return whether the ledger has an import that is not there."""
    report = ledger.verify(root, session_id)
    known = session_id in report.imported and session_id not in report.removed
    return known and not os.path.lexists(root / session_id)
