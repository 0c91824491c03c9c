"""Make the mount points and links of grants in a cage's home, which an earlier command filled.

Rules of this file: a place is made by descriptors and never through a symlink of the command's, so
every mount and link lies inside the home. A file of the command in the way is renamed, not deleted.
Places of the last session are removed unless the command has changed them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from nono_trio.sandbox.launcher.hostile_tree import (
    find_directory,
    make_directories,
    mode_of,
    set_aside,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.sandbox.home_plan import Place


def make_places(home: int, places: Iterable[Place]) -> list[str]:
    """Make every place below the open directory `home`; return notes. Raises OSError."""
    notes = []
    for place in places:
        *above, name = place.names
        parent = make_directories(home, above, clear=True)
        try:
            if not _is_there(place, name, parent):
                if mode_of(name, parent) is not None:
                    other = set_aside(name, parent)
                    notes.append(
                        f"{place.path} of the cage's home is in the way of a grant, and is {other}"
                        " there now"
                    )
                _make(place, name, parent)
        finally:
            os.close(parent)
    return notes


def _is_there(place: Place, name: str, parent: int) -> bool:
    mode = mode_of(name, parent)
    if mode is None:
        return False
    if place.kind == "link":
        return stat.S_ISLNK(mode) and os.readlink(name, dir_fd=parent) == place.target
    return stat.S_ISDIR(mode) if place.kind == "directory" else stat.S_ISREG(mode)


def _make(place: Place, name: str, parent: int) -> None:
    if place.kind == "link":
        os.symlink(place.target, name, dir_fd=parent)
    elif place.kind == "directory":
        os.mkdir(name, 0o700, dir_fd=parent)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o600, dir_fd=parent))


def unmake_places(home: int, places: Sequence[tuple[str, str, str]]) -> None:
    """Remove unchanged places (path, kind, target): our links, empty directories and files.

    Deeper places first; never raises OSError.
    """
    for path, kind, target in sorted(places, key=lambda place: -place[0].count("/")):
        *above, name = path.split("/")
        with contextlib.suppress(OSError):
            parent = find_directory(home, above)
            try:
                _unmake(name, kind, target, parent)
            finally:
                os.close(parent)


def _unmake(name: str, kind: str, target: str, parent: int) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if kind == "directory":
        os.rmdir(name, dir_fd=parent)  # fails unless it is empty
    elif kind == "link":
        if stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=parent) == target:
            os.unlink(name, dir_fd=parent)
    elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
        os.unlink(name, dir_fd=parent)
