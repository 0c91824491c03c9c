"""Removes the directories of killed starts and removals, for `recover --all`.

A start that was killed has no session yet: a directory gets its session's name before the command
is started. Of a removal that was killed the ledger says that the session is removed. Rules of this
file: a directory whose log is locked belongs to a start at work. A directory without a log is only
removed when it is old, because its start may be about to make the log. Blocking.
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
    """Remove the directories of killed starts and removals; return their number.

    Directories that can't be removed stay.
    """
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
