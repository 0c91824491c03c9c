"""Directories of starts and removals that were killed: removed by `recover --all`.

Nothing of a session has happened in the first (a directory gets its session's name before the
command is started), and the ledger says of the others that they are removed. Rules of this file:
one whose log is held is a start at work; one without a log is only removed when it is old, as its
start may be about to make it. Blocking.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.audit.write.session_files import lock
from nono_trio.posix.owner import as_owner

if TYPE_CHECKING:
    from pathlib import Path

_HIDDEN = (store.STARTING, store.REMOVING)
OLD_SECONDS = 60.0  # a start makes its log within milliseconds


def remove_abandoned(audit_root: Path) -> int:
    """Remove what killed starts and removals left; return how many. What can't be removed stays."""
    try:
        found = [one for one in audit_root.iterdir() if one.name.startswith(_HIDDEN)]
    except OSError:
        return 0
    return sum(map(_remove, found))


def _remove(directory: Path) -> bool:
    with suppress(OSError):
        if directory.is_symlink() or not directory.is_dir():
            return False
        with as_owner(directory):
            if not _is_abandoned(directory):
                return False
            shutil.rmtree(directory)
        return not directory.exists()
    return False


def _is_abandoned(directory: Path) -> bool:
    try:
        held = os.open(directory / store.LOG, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - directory.stat().st_mtime > OLD_SECONDS
    try:
        lock(held)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True
