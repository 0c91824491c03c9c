"""Entries of the state directory that go with their session, also when its supervisor is killed.

Rules of this file: an entry is a file, or a directory with a lock file in it. Its supervisor holds
the lock while it lives. The next session removes what is unlocked and not new.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# A new entry is unlocked for microseconds.
ABANDONED_SECONDS: Final = 60.0
_MOST_ENTRIES: Final = 1000  # left by supervisors that were killed; the rest goes next time


def hold(lock: int) -> None:
    """Lock an entry until the descriptor is closed. On a file system without locks the entry is
    removed by its age alone."""
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_abandoned(above: Path, lock: str | None = None) -> None:
    """Remove the entries in `above` whose supervisor was killed. Raises nothing.

    `lock`: the entries are directories, and that is the name of the lock file in each.
    """
    with suppress(OSError), os.scandir(above) as entries:
        for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False):
            with suppress(OSError):
                _remove_if_abandoned(above / entry.name, lock)


def _remove_if_abandoned(path: Path, lock: str | None) -> None:
    if time.time() - path.stat(follow_symlinks=False).st_ctime <= ABANDONED_SECONDS:
        return
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        held = os.open(path if lock is None else path / lock, flags)
    except FileNotFoundError:
        _remove(path, lock)
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path, lock)
    finally:
        os.close(held)


def _remove(path: Path, lock: str | None) -> None:
    if lock is None:
        path.unlink()
    else:
        shutil.rmtree(path)
