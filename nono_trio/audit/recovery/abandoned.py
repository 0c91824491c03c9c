"""Removes what killed starts, removals and imports left, for `cleanup` and `recover --all`.

A start that was killed has no session yet: a directory gets its session's name before the command
is started. Of a removal that was killed the ledger says that the session is removed. An import that
was killed after its line in the ledger is finished (unfinished_import.py). Rules of this file: a
directory that is locked, or whose log is, belongs to a command at work. Only of a removal that has
its log still is that proof enough: others must be old too, because a start may be about to make its
log, or to lock it. What can't be removed is told. Blocking.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.audit import store
from nono_trio.audit.recovery.acting_owner import as_verifying_owner
from nono_trio.audit.recovery.forget import SessionInUse, hold_log, not_removed
from nono_trio.audit.recovery.unfinished_import import finish_import
from nono_trio.audit.write.session_files import lock
from nono_trio.errors import NonoTrioError
from nono_trio.posix.remove_tree import open_directory, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

_HIDDEN = (store.STARTING, store.REMOVING, store.IMPORTING)
OLD_SECONDS = 60.0  # a start makes and locks its log within milliseconds


class Abandoned(NamedTuple):
    """The number of directories that were removed, and an error for each that could not be."""

    removed: int
    stuck: list[NonoTrioError]


def remove_abandoned(audit_root: Path) -> Abandoned:
    """Remove the directories of killed starts, removals and imports."""
    removed, stuck = 0, list[NonoTrioError]()
    try:
        found = [one for one in audit_root.iterdir() if one.name.startswith(_HIDDEN)]
    except OSError:
        return Abandoned(0, stuck)
    for directory in found:
        try:
            with as_verifying_owner(audit_root):
                removed += _remove(directory)
        except FileNotFoundError:  # another command removed the rest
            continue
        except OSError as error:
            stuck.append(not_removed(directory, error))
        except NonoTrioError as error:
            stuck.append(error)
    return Abandoned(removed, stuck)


def _remove(directory: Path) -> bool:
    """Return whether it was removed; raises OSError and NonoTrioError."""
    found = directory.lstat()
    is_old = time.time() - found.st_mtime > OLD_SECONDS
    if not stat.S_ISDIR(found.st_mode):
        if is_old:
            directory.unlink()
        return is_old
    is_removal = directory.name.startswith(store.REMOVING)
    if not is_old and not is_removal:  # before any lock: a start may be about to take it
        return False
    with contextlib.ExitStack() as opened:
        top = open_directory(str(directory))
        opened.callback(os.close, top)
        is_import = directory.name.startswith(store.IMPORTING)
        try:
            if is_import:
                lock(top)
                finish_import(directory)
            elif (held := hold_log(directory)) is not None:
                opened.callback(os.close, held)
            elif not is_old:
                return False
        except (BlockingIOError, SessionInUse):
            return False
        remove_tree(directory)
    return True
