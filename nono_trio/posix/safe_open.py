"""Opening what should be a file: a pipe that was put in its place would keep a reader for ever."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting; raises OSError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        require_regular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, limit: int) -> bytes:
    """A regular file's bytes; raises OSError, also for a file of more than `limit` bytes.

    The size is looked at first: a file that is all hole costs its maker nothing, and us the memory.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            # Not `limit`: a read takes the memory it is told beforehand. It may have grown since.
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
