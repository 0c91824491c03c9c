"""Restores the modes of a session's own files and directories before the seal.

A command without a file system view of its own (landlock isolation without a broker, or none at
all) may change modes by name. With a ledger that can't be written, this and every later session
would stay unsealed. Rules: all files are opened at the start, and changed by descriptor, so no name
is followed afterwards. Of directories above the state only the owner's own rights are restored,
because the rest may be intended. Blocking.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_OWNERS = 0o700
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class StateModes:
    """Holds the descriptors of a session's state; `close` closes them."""

    def __init__(self, own: list[int], above: list[int]) -> None:
        self.healed = 0
        self._healing = threading.Lock()  # a thread may hang here after its waiter has left
        self._own = [(held, _mode(held)) for held in own]
        self._above = [(held, _mode(held)) for held in above]

    @classmethod
    def of(cls, directory: Path, shared: Sequence[str]) -> Self:
        """Open a session's directory, its files, the directories above, and the files beside it
        that are named `shared`.

        A file that can't be opened is left out: this is a precaution only.
        """
        audit = directory.parent
        files = [*directory.iterdir(), *(audit / name for name in shared)]
        return cls(_held([directory, audit, audit.parent, *files]), _held(audit.parent.parents))

    def heal(self) -> None:
        """Restore the modes; `healed` counts the changes. Raises nothing."""
        with self._healing:
            for held, mode in self._above:
                self.healed += _change(held, _mode(held) | mode & _OWNERS)
            for held, mode in self._own:
                self.healed += _change(held, mode)

    def close(self) -> None:
        """Close the descriptors, but not while a thread still changes modes by their numbers."""
        if not self._healing.acquire(blocking=False):
            return
        for held, _ in (*self._own, *self._above):
            os.close(held)
        self._own, self._above = [], []
        self._healing.release()


def _held(paths: Iterable[Path]) -> list[int]:
    """Descriptors of our own files; a directory above may belong to another user."""
    found = []
    for path in paths:
        with suppress(OSError):
            held = os.open(path, _FLAGS)
            if os.fstat(held).st_uid == os.geteuid():
                found.append(held)
            else:
                os.close(held)
    return found


def _mode(held: int) -> int:
    return os.fstat(held).st_mode


def _change(held: int, mode: int) -> int:
    wanted = stat.S_IMODE(mode)
    if stat.S_IMODE(_mode(held)) == wanted:
        return 0
    with suppress(OSError):
        os.fchmod(held, wanted)
        return 1
    return 0
