"""Make bytes and names durable on disk, on each system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from typing import TYPE_CHECKING

from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make a created or renamed name in `directory` durable; raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def forget_cached(path: Path) -> None:
    """Drop the cached bytes of a file, so that the next reader gets those on disk.

    After a failed sync the kernel keeps the bytes that it could not write, as if they were written.
    The first sync here may report that old failure; if the second fails too, the disk fails now.
    Ignores a missing file, and what is no file: its reader says so. Raises OSError.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        return
    with open_regular(path, follow=False) as file:
        with contextlib.suppress(OSError):
            sync_data(file.fileno())
        sync_data(file.fileno())
        _drop_cached(file.fileno())


if sys.platform == "darwin":

    def _drop_cached(_descriptor: int) -> None:
        """Do nothing: F_NOCACHE of macOS applies to later reads only."""

    def sync_data(descriptor: int) -> None:
        """Make a file's bytes durable: fsync(2) stops at the drive's cache here (its manual)."""
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError:  # a file system without F_FULLFSYNC, usually a network's
            os.fsync(descriptor)

else:

    def _drop_cached(descriptor: int) -> None:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_data(descriptor: int) -> None:
        """Make a file's bytes durable, with the metadata that is needed to read them."""
        os.fdatasync(descriptor)
