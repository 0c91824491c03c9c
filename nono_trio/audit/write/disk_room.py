"""Space on the disk: blocks reserved for a file before its bytes are written, and a minimum that
stays free.

Rules of this file: reserved space does not change a file's size, so a crash leaves no NULs. The
last bytes of a file (the end of a log, its last checkpoint) fit into its reserved space, even if
another program fills the disk. On a file system that can't reserve blocks, only the minimum is kept
free. A session never takes the last free space of a disk, and a flood of records ends.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

from nono_trio.posix.safe_open import open_temporary

if TYPE_CHECKING:
    from pathlib import Path

# Reserved at once: one call for some two hundred records, and little to release at the end.
CHUNK: Final = 256 * 1024
# The space left to others: the system needs it to stay usable. It is at most a hundredth of the
# disk, so that small ones (a tmpfs) can be used as well.
FLOOR: Final = 64 * 1024 * 1024
FLOOR_SHARE: Final = 100

_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE
# The errors of file systems and kernels without this feature.
_UNSUPPORTED: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM}
)


class NoRoom(OSError):
    """The disk has only the reserved space left: nothing was written, the end still fits."""


class Room:
    """The space that one open file reserves after its end; `kept` bytes are for its last bytes."""

    def __init__(self, descriptor: int, kept: int) -> None:
        self._descriptor = descriptor
        self._kept = kept
        self._held = 0
        self._asked = 0

    def require(self, end: int) -> int:
        """Reserve space for `end` bytes and for the last ones after them; raises NoRoom.

        Returns the end up to which no more need be required. Makes no system call until a chunk is
        used up.
        """
        needed = end + self._kept
        if needed > self._asked:
            require_floor(self._descriptor)
            if self._hold(needed + CHUNK):
                self._asked = self._held
            else:  # nothing can be reserved here: check the minimum again then
                self._asked = needed + CHUNK
        return self._asked - self._kept

    def release(self, end: int) -> None:
        """Release the space after the first `end` bytes, which are the whole file."""
        if self._held > end:
            os.ftruncate(self._descriptor, end)
        self._held = self._asked = 0

    def _hold(self, size: int) -> bool:
        held = hold(self._descriptor, size)
        self._held = size if held else 0
        return held


def hold(descriptor: int, size: int) -> bool:
    """Allocate the blocks of the first `size` bytes without changing the file's size.

    Returns False if the system can't. Raises NoRoom.
    """
    number = _allocate(descriptor, size)
    if number not in _UNSUPPORTED and number != 0:
        raise NoRoom(number, os.strerror(number))
    return number == 0


def hold_file(path: Path, size: int) -> None:
    """Reserve `size` bytes for `path` (0600, created if it is missing).

    Raises OSError.
    """
    descriptor = open_temporary(path)
    try:
        require_floor(descriptor)
        hold(descriptor, size)
    finally:
        os.close(descriptor)


def require_floor(descriptor: int) -> None:
    """Raise NoRoom if the disk of an open file has less space than must stay free."""
    disk = os.fstatvfs(descriptor)
    floor = min(FLOOR, disk.f_blocks * disk.f_frsize // FLOOR_SHARE)
    if disk.f_bavail * disk.f_frsize < floor:
        raise NoRoom(errno.ENOSPC, f"less than {_shown(floor)} left on its disk")


def _shown(size: int) -> str:
    """Return a size for a sentence."""
    mebibytes = size / (1024 * 1024)
    return f"{mebibytes:.0f} MiB" if mebibytes >= 1 else f"{size // 1024} KiB"


if sys.platform == "darwin":

    def _allocate(_descriptor: int, _size: int) -> int:
        """The reservation (F_PREALLOCATE) ends when the file is closed, so only the minimum is
        kept."""
        return errno.EOPNOTSUPP

else:

    def _allocate(descriptor: int, size: int) -> int:
        """Call fallocate(2) and return its errno; Python has only the form that changes a file's
        size."""
        import ctypes  # a run imports it anyway; no other command comes here

        allocate = ctypes.CDLL(None, use_errno=True).fallocate
        allocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        while allocate(descriptor, _KEEP_SIZE, 0, size) != 0:
            if ctypes.get_errno() != errno.EINTR:
                return ctypes.get_errno()
        return 0
