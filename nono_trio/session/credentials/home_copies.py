"""Copies of the user's files in a cage's own home: written before the command, gone after it.

Rules of this file: an earlier command filled the home, so no link in it is followed; what lies in
the place of a copy is renamed, and gets its name back at the end; the mount points that a view
leaves in a kept home are removed, because an empty file is no valid settings file.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.posix.owner import as_owner_of_path
from nono_trio.sandbox.launcher.hostile_tree import (
    entered,
    find_directory,
    make_directories,
    mode_of,
    set_aside,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class HomeCopies:
    """The copies in one home, a directory of the host; `mount_points` are below a kept one."""

    def __init__(self, home: str, mount_points: Sequence[str] = ()) -> None:
        self._home = home
        self._mount_points = list(mount_points)
        self._written: dict[
            str, str | None
        ] = {}  # by path below the home: the name of what was there

    def write(self, inside: str, data: bytes) -> None:
        """Write a copy (0600) at a path below the home. Raises OSError."""
        *directories, name = inside.split("/")
        with self._opened() as top:
            parent = make_directories(top, directories, clear=True)
            try:
                there = mode_of(name, parent) is not None
                self._written[inside] = set_aside(name, parent) if there else None
                with open(os.open(name, _NEW, 0o600, dir_fd=parent), "wb") as file:
                    file.write(data)
            finally:
                os.close(parent)

    def close(self) -> None:
        """Remove the copies, and what the command put in their place.

        Raises nothing: a private home may be gone.
        """
        for inside, before in self._written.items():
            with suppress(OSError), self._parent_of(inside) as (parent, name):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
                if before is not None:
                    os.rename(before, name, src_dir_fd=parent, dst_dir_fd=parent)
        for inside in self._mount_points:
            with suppress(OSError), self._parent_of(inside) as (parent, name):
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_size == 0:
                    os.unlink(name, dir_fd=parent)
        self._written, self._mount_points = {}, []

    @contextmanager
    def _parent_of(self, inside: str) -> Iterator[tuple[int, str]]:
        """Open the directory of a path, and tell its name there."""
        *directories, name = inside.split("/")
        with self._opened() as top:
            parent = find_directory(top, directories)
            try:
                yield parent, name
            finally:
                os.close(parent)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with as_owner_of_path(Path(self._home)), entered(self._home) as top:
            yield top
