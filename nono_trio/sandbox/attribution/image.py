"""The program that a process runs: held, so that another one in its place is noticed.

Path and file belong together: the path is read from the open file. Rules of this file: nothing here
waits. The file is open as a place only (O_PATH), so its file system, which may be dead, is not
asked; who reads it does so in a thread (description.py).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_TRIES: Final = 3  # a process that executes again and again gets the last one
_FILE: Final = os.O_RDONLY | os.O_CLOEXEC
_PLACE: Final = getattr(os, "O_PATH", 0) | os.O_CLOEXEC
_MOST_STAT: Final = 1024
# The last fields of /proc/PID/stat: where data, arguments and environment lie, and one more.
_LAYOUT_FIELDS: Final = 8


class Image:
    """The program of the process or thread whose directory in /proc is `where` below `directory`
    (an open one of a process, and "" or "task/TID/"). `path` and `file` are None and -1 if the
    kernel does not show them."""

    __slots__ = ("_layout", "_memory", "file", "path", "where")

    def __init__(self, directory: int, where: str = "") -> None:
        """Hold it; raises OSError if the process has ended."""
        self.where = where
        self._take(directory)
        for _ in range(_TRIES - 1):
            if self.is_of(read_stat(directory, where)):
                break
            self.close()
            self._take(directory)

    def _take(self, directory: int) -> None:
        self.path: str | None = None
        self.file = self._memory = -1
        with suppress(OSError):  # a kernel without it: the layout alone tells
            self._memory = os.open(f"{self.where}pagemap", _FILE, dir_fd=directory)
        try:
            self._layout = _layout(read_stat(directory, self.where))
        except OSError:
            self.close()
            raise
        with suppress(OSError):
            self.file = os.open(f"{self.where}exe", _PLACE, dir_fd=directory)
            self.path = os.readlink(f"/proc/self/fd/{self.file}")

    def copy(self) -> Image:
        """The same with descriptors of its own, for a thread; raises OSError."""
        copy = Image.__new__(Image)
        copy.where, copy.path, copy._layout = self.where, self.path, self._layout
        copy.file = copy._memory = -1
        try:
            copy.file = os.dup(self.file) if self.file >= 0 else -1
            copy._memory = os.dup(self._memory) if self._memory >= 0 else -1
        except OSError:
            copy.close()
            raise
        return copy

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self.file, self._memory):
            if descriptor >= 0:
                os.close(descriptor)
        self.file = self._memory = -1

    def is_of(self, stat: bytes) -> bool:
        """Return True if the process, whose stat this is, still runs it."""
        return _layout(stat) == self._layout and self._has_same_memory()

    def _has_same_memory(self) -> bool:
        """Return False once the memory is given up, as an exec does. Without randomized addresses
        another program can have the same layout."""
        if self._memory < 0:
            return True
        try:
            # Of memory that is in use the kernel refuses to read less than an entry.
            os.pread(self._memory, 1, 0)
        except OSError:
            return True
        return False


def read_stat(directory: int, where: str = "") -> bytes:
    """The text of /proc/PID/stat, or of a thread's; raises OSError."""
    descriptor = os.open(f"{where}stat", _FILE, dir_fd=directory)
    try:
        return os.read(descriptor, _MOST_STAT)
    finally:
        os.close(descriptor)


def _layout(stat: bytes) -> list[bytes]:
    return stat.rsplit(b" ", _LAYOUT_FIELDS)[1:]
