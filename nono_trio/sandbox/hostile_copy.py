"""Copy a tree that a hostile command filled, and may be filling at this moment.

Rules of this file: symlinks are copied as symlinks and never followed; sockets, pipes and devices
are left out; set-user-id and set-group-id bits are dropped; files keep their times (build tools
compare them); entries, bytes and time are bounded, and a truncated copy is reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.sandbox.launcher.hostile_tree import find_directory, make_directories, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator

# Several times a home with the caches of a big project; tools rebuild missing cache files.
MAX_ENTRIES = 300_000
MAX_BYTES = 8 << 30
COPY_SECONDS = 60.0

_FICLONE = 0x40049409
_CHUNK = 8 << 20
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Exhausted(Exception):
    """A bound is reached."""


@dataclass
class Copied:
    """The result of a copy; `whole` is False if a bound ended it early."""

    entries: int = 0
    size: int = 0
    whole: bool = True


def copy_tree(
    source: int,
    target: int,
    *,
    most: int = MAX_ENTRIES,
    most_bytes: int = MAX_BYTES,
    seconds: float = COPY_SECONDS,
) -> Copied:
    """Copy the content of the directory `source` into the empty directory `target`.

    Files that can't be read, or that change during the copy, are left out. Raises OSError if
    `target` can't be written.
    """
    copying = _Copying(target, most, most_bytes, time.monotonic() + seconds)
    with contextlib.suppress(_Exhausted):
        copying.run(source)
        return copying.copied
    copying.copied.whole = False
    return copying.copied


class _Copying:
    def __init__(self, target: int, most: int, most_bytes: int, deadline: float) -> None:
        self._target = target
        self._most = most
        self._most_bytes = most_bytes
        self._deadline = deadline
        self.copied = Copied()

    def run(self, source: int) -> None:
        """Copy directory by directory: a list of paths instead of recursion."""
        pending = [""]
        while pending:
            directory = pending.pop()
            here = _found(source, directory)
            if here is None:
                continue
            try:
                with _made(self._target, directory) as there:
                    names = sorted(names_in(here, self._most + 1))
                    below = [name for name in names if self._entry(name, here, there)]
                    pending += [f"{directory}/{name}" if directory else name for name in below]
            finally:
                os.close(here)

    def _entry(self, name: str, here: int, there: int) -> bool:
        """Copy one entry; return True for a directory, whose content comes next."""
        self.copied.entries += 1
        if self.copied.entries > self._most or time.monotonic() > self._deadline:
            raise _Exhausted
        try:
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
                return False
            if not stat.S_ISREG(status.st_mode):
                return stat.S_ISDIR(status.st_mode)
            file = os.open(name, _READ_FILE, dir_fd=here)
        except OSError:  # removed, or unreadable
            return False
        try:
            self._file(file, name, there)
        finally:
            os.close(file)
        return False

    def _file(self, file: int, name: str, there: int) -> None:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):  # swapped since the stat
            return
        if self.copied.size + status.st_size > self._most_bytes:
            raise _Exhausted
        mode = stat.S_IMODE(status.st_mode) & 0o777
        new = os.open(name, _NEW_FILE, 0o600, dir_fd=there)
        try:
            try:
                fcntl.ioctl(new, _FICLONE, file)
                self.copied.size += status.st_size
            except OSError:  # a file system without reflinks: copy the bytes
                self._bytes(file, new)
            os.fchmod(new, mode)
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(new)

    def _bytes(self, file: int, new: int) -> None:
        while data := os.read(file, _CHUNK):
            self.copied.size += len(data)
            if self.copied.size > self._most_bytes or time.monotonic() > self._deadline:
                raise _Exhausted
            written = 0
            while written < len(data):
                written += os.write(new, data[written:])


def _found(source: int, path: str) -> int | None:
    """Open a directory of the source; None if it can't be opened.

    It may have been removed, locked or replaced since its parent was read.
    """
    try:
        return find_directory(source, path.split("/") if path else (), heal=False)
    except OSError:
        return None


@contextlib.contextmanager
def _made(target: int, path: str) -> Iterator[int]:
    opened = make_directories(target, path.split("/") if path else ())
    try:
        yield opened
    finally:
        os.close(opened)
