"""Copy a tree that a hostile command filled, and may be filling at this moment.

Rules of this file: symlinks are copied as such and never followed; sockets, pipes and devices are
left out; no mode carries a set-user-id bit along; files keep their times (build tools compare
them); entries, bytes and time are bounded, and a copy that a bound cut short says so.
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

# Several times a home with the caches of a big project; what is more is built again by its tool.
MAX_ENTRIES = 300_000
MAX_BYTES = 8 << 30
COPY_SECONDS = 60.0

_FICLONE = 0x40049409
_CHUNK = 8 << 20
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Exhausted(Exception):
    """One of the bounds is reached."""


@dataclass
class Copied:
    """What was copied; `whole` is False where a bound cut it short."""

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
    """Copy what lies below the directory `source` into the empty directory `target`.

    What can't be read, or changes under the copy, is left out. Raises OSError when `target` can't
    be written.
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
        """Level by level: a queue of paths instead of a recursion."""
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
        """Copy one entry; True for a directory, which is to be gone into."""
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
        except OSError:  # gone, or not to be read
            return False
        try:
            self._file(file, name, there)
        finally:
            os.close(file)
        return False

    def _file(self, file: int, name: str, there: int) -> None:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):  # swapped since it was looked at
            return
        if self.copied.size + status.st_size > self._most_bytes:
            raise _Exhausted
        mode = stat.S_IMODE(status.st_mode) & 0o777
        new = os.open(name, _NEW_FILE, 0o600, dir_fd=there)
        try:
            try:
                fcntl.ioctl(new, _FICLONE, file)
                self.copied.size += status.st_size
            except OSError:  # no such file system: byte by byte
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
    """Open a directory of the source; None where it can't be opened: since its parent was read it
    may have gone, been shut, or become something else."""
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
