"""The modes of a session's own files and directories, given back before it is sealed.

A command without a file system view of its own may be able to change modes by name (landlock
isolation without a broker, or none at all): a ledger that nobody may write would leave this and
every later session unsealed. Rules: everything is opened at the start, and changed by that hold, so
no name is followed afterwards; of directories above the state only the owner's own rights are given
back, as somebody may have meant the rest. Blocking.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_OWNERS = 0o700
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class StateModes:
    """Holds what belongs to a session's state; `close` it, or it is closed with the process."""

    def __init__(self, own: list[int], above: list[int]) -> None:
        self.healed = 0
        self._own = [(held, _mode(held)) for held in own]
        self._above = [(held, _mode(held)) for held in above]

    @classmethod
    def of(cls, directory: Path, shared: Sequence[str]) -> Self:
        """Hold a session's directory, its files, what they lie in, and of the files beside it those
        that are named `shared`.

        What can't be opened is left out: it is no more than a precaution.
        """
        audit = directory.parent
        files = [*directory.iterdir(), *(audit / name for name in shared)]
        return cls(_held([directory, audit, audit.parent, *files]), _held(audit.parent.parents))

    def heal(self) -> None:
        """Give back what was taken; `healed` counts it. Raises nothing."""
        for held, mode in self._above:
            self.healed += _change(held, _mode(held) | mode & _OWNERS)
        for held, mode in self._own:
            self.healed += _change(held, mode)

    def close(self) -> None:
        """Give the descriptors back."""
        for held, _ in (*self._own, *self._above):
            os.close(held)
        self._own, self._above = [], []


def _held(paths: Iterable[Path]) -> list[int]:
    """Those of ours; a directory above may be anybody's."""
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
