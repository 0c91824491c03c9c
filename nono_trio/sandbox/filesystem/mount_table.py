"""The kernel's table of mounts, to find the other paths of a directory.

A bind mount gives a tree a second path, so closing one path leaves the other open. Rules of this
file: a second path counts only if it leads to the same device and inode; on a system without such a
table each directory has one path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.posix.paths import ancestors, identity, is_in, relative

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOUNTS: Final = "/proc/self/mountinfo"
_ESCAPED: Final = late_pattern(r"\\([0-7]{3})")  # blanks and backslashes


class Mount(msgspec.Struct, frozen=True):
    """One mount: the file system's device, the directory of it, and the mount point."""

    device: str
    root: str
    point: str


class MountTable:
    """The mounts that this process sees; a later mount hides an earlier one at its point."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._at: dict[str, Mount] = {}
        self._of: dict[str, list[Mount]] = {}
        for mount in mounts:
            self._at[mount.point] = mount
            self._of.setdefault(mount.device, []).append(mount)

    @classmethod
    def read(cls, path: str = MOUNTS) -> MountTable:
        """Read the table; it is empty on a system without one."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return cls(map(_parsed, file))
        except OSError:
            return cls(())

    def names(self, real: str) -> tuple[str, ...]:
        """Return every path of `real`, which has no symlinks, the given one first.

        Second paths of directories inside `real` are included.
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
    """Tell whether two paths lead to one file; for missing files compare the existing parents."""
    while True:
        found = identity(path)
        if found is not None or path == "/" or other == "/":
            return found is not None and found == identity(other)
        if identity(other) is not None or os.path.basename(path) != os.path.basename(other):
            return False
        path, other = os.path.dirname(path), os.path.dirname(other)
