"""Removes the directories of killed starts, removals and imports, for `recover --all`.

A start that was killed has no session yet: a directory gets its session's name before the command
is started. Of a removal that was killed the ledger says that the session is removed. An import that
was killed after its line in the ledger is finished (unfinished_import.py). Rules of this file: a
directory that is locked, or whose log is, belongs to a command at work. A directory without a log
is only removed when it is old, because its start may be about to make the log. Blocking.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.audit.recovery.acting_owner import as_verifying_owner
from nono_trio.audit.recovery.unfinished_import import finish_import
from nono_trio.audit.write.session_files import lock
from nono_trio.errors import NonoTrioError
from nono_trio.posix.remove_tree import remove_tree

if TYPE_CHECKING:
    from pathlib import Path

_HIDDEN = (store.STARTING, store.REMOVING, store.IMPORTING)
OLD_SECONDS = 60.0  # a start makes its log within milliseconds


def remove_abandoned(audit_root: Path) -> int:
    """Remove the directories of killed starts, removals and imports; return their number.

    Directories that can't be removed stay.
    """
    try:
        found = [one for one in audit_root.iterdir() if one.name.startswith(_HIDDEN)]
    except OSError:
        return 0
    return sum(map(_remove, found))


def _remove(directory: Path) -> bool:
    with suppress(OSError, NonoTrioError):
        if directory.is_symlink() or not directory.is_dir():
            return False
        with as_verifying_owner(directory):
            if not _is_abandoned(directory):
                return False
            if directory.name.startswith(store.IMPORTING):
                finish_import(directory)
            remove_tree(directory)
        return not directory.exists()
    return False


def _is_abandoned(directory: Path) -> bool:
    if directory.name.startswith(store.IMPORTING):
        return _is_old(directory) and not _is_locked(directory)
    try:
        held = os.open(directory / store.LOG, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _is_old(directory)
    try:
        lock(held)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True


def _is_old(directory: Path) -> bool:
    return time.time() - directory.stat().st_mtime > OLD_SECONDS


def _is_locked(directory: Path) -> bool:
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        lock(held)
    except BlockingIOError:
        return True
    finally:
        os.close(held)
    return False
