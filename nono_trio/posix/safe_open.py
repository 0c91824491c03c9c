"""Open regular files only: a pipe at the same path would block its reader for ever."""

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
