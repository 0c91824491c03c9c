"""The kernel's table of mounts: by which other paths the same directory can be reached.

A bind mount gives a tree a second path, and what is closed by one of them would be open by the
other. Rules of this file: a second name is believed only if it leads to the same device and inode;
on a system without such a table a place has the one name that it was given.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.posix.paths import ancestors, identity, is_in, relative

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOUNTS: Final = "/proc/self/mountinfo"
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")  # the kernel writes blanks and backslashes so


class Mount(NamedTuple):
    """One mount: of which file system, which directory of it, and where."""

    device: str
    root: str
    point: str


class MountTable:
    """The mounts that this process sees, in the kernel's order: a later one hides an earlier."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._at: dict[str, Mount] = {}
        self._of: dict[str, list[Mount]] = {}
        for mount in mounts:
            self._at[mount.point] = mount
            self._of.setdefault(mount.device, []).append(mount)

    @classmethod
    def read(cls, path: str = MOUNTS) -> MountTable:
        """Read the table; an empty one where there is none."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return cls(map(_parsed, file))
        except OSError:
            return cls(())

    def names(self, real: str) -> tuple[str, ...]:
        """Return every path of `real`, which has no symlinks in it, the given one first.

        Where only a part of what is inside `real` has a second path, that path is among them.
        """
        return tuple(dict.fromkeys([real, *self._others(real)]))

    def _others(self, real: str) -> Iterator[str]:
        own = next((self._at[one] for one in ancestors(real) if one in self._at), None)
        if own is None or len(self._of[own.device]) == 1:
            return
        inside = _joined(own.root, relative(real, own.point))
        for mount in self._of[own.device]:
            if mount is own:
                continue
            if is_in(inside, mount.root):
                name = _joined(mount.point, relative(inside, mount.root))
                if _are_same(real, name):
                    yield name
            elif is_in(mount.root, inside):
                part = _joined(real, relative(mount.root, inside))
                if _are_same(part, mount.point):
                    yield mount.point


def _parsed(line: str) -> Mount:
    _, _, device, root, point, *_ = line.split(" ")
    return Mount(device, _unescaped(root), _unescaped(point))


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def _joined(directory: str, below: str) -> str:
    return os.path.join(directory, below) if below else directory


def _are_same(path: str, other: str) -> bool:
    """Whether two paths lead to one place; where it is not there yet, so far as it is."""
    while True:
        found = identity(path)
        if found is not None or path == "/" or other == "/":
            return found is not None and found == identity(other)
        if identity(other) is not None or os.path.basename(path) != os.path.basename(other):
            return False
        path, other = os.path.dirname(path), os.path.dirname(other)
