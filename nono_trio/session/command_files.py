"""Files of one session in the state directory that its command may read: a directory that goes with
the session.

Rules of this file: the state directory can't be granted, so the command never writes here. A file
is created exclusively, and is readable for others because a program in the cage may have another
user; the directory around it is not. What a killed supervisor left is removed by the next session.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nono_trio.posix.owner import as_owner_of_path
from nono_trio.session.abandoned_entries import hold, remove_abandoned

if TYPE_CHECKING:
    from pathlib import Path

_LOCK: Final = "lock"


class CommandFiles:
    """A directory of one session's files below `state_root`/`name`."""

    def __init__(self, state_root: Path, name: str) -> None:
        """Make it, empty; raises OSError."""
        above = state_root / name
        self._directory = above / os.urandom(8).hex()
        with as_owner_of_path(self._directory):
            above.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_abandoned(above, _LOCK)
            self._directory.mkdir(mode=0o700)
            self._lock = _create(self._directory / _LOCK, 0o600)
        hold(self._lock)

    def write(self, name: str, data: bytes, mode: int = 0o644) -> str:
        """Make a file; return its path without symlinks. Raises OSError."""
        path = self._directory / name
        with as_owner_of_path(path):
            descriptor = _create(path, mode)
        try:
            os.fchmod(descriptor, mode)  # whatever the umask
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        return os.path.realpath(path)

    def close(self) -> None:
        """Remove it; the command has ended."""
        if self._lock < 0:
            return
        os.close(self._lock)
        self._lock = -1
        with suppress(OSError), as_owner_of_path(self._directory):
            shutil.rmtree(self._directory)


def _create(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
