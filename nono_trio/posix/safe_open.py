"""Open regular files only: a pipe at the same path would block its reader or writer for ever."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import WriteableBuffer

# What opening something else than a file, or as root one with another name, says.
_NO_FILE_OF_OURS = (errno.EINVAL, errno.ELOOP, errno.EMLINK, errno.ENXIO)


class NeverWaiting(io.FileIO):
    """A file whose reads raise OSError where others return None: nothing is there to read yet.

    Some files of /proc are called regular, and are pipes (/proc/kmsg).
    """

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read as FileIO does."""
        count = super().readinto(buffer)
        if count is None:
            raise OSError(errno.EINVAL, "expected a file, got one that would wait")
        return count


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading, without waiting; raises OSError for anything else.

    Without `follow`, also for a symlink in its place.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        require_regular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return io.BufferedReader(NeverWaiting(descriptor))


def open_to_write(path: Path, flags: int) -> int:
    """Open a regular file to write to it, without waiting; one that O_CREAT makes is 0600.

    Raises OSError for anything else in its place, a symlink too. Root also refuses a file with
    another name, which may be any file of any user.
    """
    flags |= os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        require_regular(descriptor, path)
        _require_one_name(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_temporary(path: Path) -> int:
    """Open the file that a rename will put into the place of another, as `open_to_write`.

    A pipe, link or device in its place, or a file that a backup gave a second name, is removed
    first: it must not keep a session from its seal. Raises OSError, also for a directory.
    """
    flags = os.O_WRONLY | os.O_CREAT
    try:
        return open_to_write(path, flags)
    except OSError as error:
        if error.errno not in _NO_FILE_OF_OURS:
            raise
    path.unlink()
    return open_to_write(path, flags | os.O_EXCL)


def read_whole(path: Path, limit: int) -> bytes:
    """Return a regular file's bytes; raises OSError, also for a file of more than `limit` bytes.

    The size is checked first: a sparse file costs its maker no disk space, but us the memory.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            # Not `limit`: a read allocates its argument at once. `+ 1`: the file may have grown.
            data = file.read(size + 1)
            if len(data) <= limit:
                return data
            size = len(data)
    raise OSError(errno.EFBIG, f"expected at most {limit} bytes, got {size}", str(path))


def require_regular(descriptor: int, path: Path) -> None:
    """Raise OSError unless `descriptor`, which was opened as `path`, is a regular file."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "expected a file, got a pipe or a device", str(path))


def _require_one_name(descriptor: int, path: Path) -> None:
    if os.geteuid() == 0 and os.fstat(descriptor).st_nlink > 1:
        raise OSError(errno.EMLINK, "it has another name as well", str(path))
