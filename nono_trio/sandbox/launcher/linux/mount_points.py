"""Makes the empty directories and files of the new root that something is mounted on.

Rules of this file:
- What is there already stays.
- An earlier command has filled the cage's home, so no symlink is followed in it. What is in the
  place of a file there is renamed.
"""

from __future__ import annotations

import os
import stat

from ..hostile_tree import entered, make_directories, mode_of, set_aside


class MountPoints:
    """The mount points below `root`, by the path that the child will see."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.home: str | None = None
        """The cage's home, once it is mounted."""

    def make_directory(self, path: str) -> None:
        """Make `path` and its parents as empty directories, where they are missing."""
        if self.home is None or not path.startswith(self.home + "/"):
            os.makedirs(self._root + path, mode=0o755, exist_ok=True)
            return
        with entered(self._root + self.home) as home:
            os.close(make_directories(home, os.path.relpath(path, self.home).split("/")))

    def make_file(self, path: str) -> None:
        """Make `path` as an empty file, and its parents, where they are missing."""
        if self.home is not None and path.startswith(self.home + "/"):
            self._make_home_file(self.home, *os.path.relpath(path, self.home).split("/"))
            return
        self.make_directory(os.path.dirname(path))
        if not os.path.lexists(self._root + path):
            os.close(os.open(self._root + path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def _make_home_file(self, home: str, *names: str) -> None:
        *directories, name = names
        with entered(self._root + home) as top:
            parent = make_directories(top, directories, clear=True)
            try:
                mode = mode_of(name, parent)
                if mode is not None and not stat.S_ISREG(mode):  # a link that leads elsewhere, say
                    set_aside(name, parent)
                    mode = None
                if mode is None:
                    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(name, flags, 0o644, dir_fd=parent))
            finally:
                os.close(parent)
