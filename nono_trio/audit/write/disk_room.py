"""Room on the disk: blocks that are a file's before its bytes are, and a floor that stays free.

Rules of this file: what is held never shows in a file's size, so a crash leaves no NULs behind; a
file's last bytes (the end of a log, its last checkpoint) fit into what it holds, whoever fills the
disk meanwhile; where a file system can't hold blocks, the floor alone is kept. A session never
takes the last free space of a disk that others need too, and what floods its log finds an end.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# Held at once: one call for some two hundred records, and little to give back at the end.
CHUNK: Final = 256 * 1024
# Left to everybody else: what a system needs to stay usable, but never more than a hundredth of a
# disk, so that small ones (a tmpfs) can be used as well.
FLOOR: Final = 64 * 1024 * 1024
FLOOR_SHARE: Final = 100

_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE
# What file systems, and kernels that are none, answer when they have no such thing.
_UNSUPPORTED: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM}
)


class NoRoom(OSError):
    """There is no room for more than what is held: nothing was written, the end still fits."""


class Room:
    """What one open file holds beyond its end; `kept` bytes of it are for its last bytes."""

    def __init__(self, descriptor: int, kept: int) -> None:
        self._descriptor = descriptor
        self._kept = kept
        self._held = 0
        self._asked = 0

    def require(self, end: int) -> None:
        """Hold room for `end` bytes and for the last ones after them; raises NoRoom.

        Costs nothing until a chunk is used up.
        """
        needed = end + self._kept
        if needed <= self._asked:
            return
        require_floor(self._descriptor)
        if not self._hold(needed + CHUNK):
            self._asked = needed + CHUNK  # nothing can be held here: look at the floor again then
            return
        self._asked = self._held

    def release(self, end: int) -> None:
        """Give back what is held after the first `end` bytes, which are all the file has."""
        if self._held > end:
            os.ftruncate(self._descriptor, end)
        self._held = self._asked = 0

    def _hold(self, size: int) -> bool:
        held = hold(self._descriptor, size)
        self._held = size if held else 0
        return held


def hold(descriptor: int, size: int) -> bool:
    """Make the first `size` bytes' blocks the file's without changing its size.

    Returns False where the system has no such thing. Raises NoRoom.
    """
    number = _allocate(descriptor, size)
    if number not in _UNSUPPORTED and number != 0:
        raise NoRoom(number, os.strerror(number))
    return number == 0


def hold_file(path: Path, size: int) -> None:
    """Make `path` (0600, if it is not there) hold `size` bytes for what will be written into it.

    Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        require_floor(descriptor)
        hold(descriptor, size)
    finally:
        os.close(descriptor)


def require_floor(descriptor: int) -> None:
    """Raise NoRoom when the disk of an open file has less left than what it leaves to others."""
    disk = os.fstatvfs(descriptor)
    floor = min(FLOOR, disk.f_blocks * disk.f_frsize // FLOOR_SHARE)
    if disk.f_bavail * disk.f_frsize < floor:
        raise NoRoom(errno.ENOSPC, f"less than {_shown(floor)} left on its disk")


def _shown(size: int) -> str:
    """A size for a sentence."""
    mebibytes = size / (1024 * 1024)
    return f"{mebibytes:.0f} MiB" if mebibytes >= 1 else f"{size // 1024} KiB"


if sys.platform == "darwin":

    def _allocate(_descriptor: int, _size: int) -> int:
        """Its F_PREALLOCATE is given back when the file is closed: the floor alone is kept."""
        return errno.EOPNOTSUPP

else:

    def _allocate(descriptor: int, size: int) -> int:
        """fallocate(2), which Python has only in its form that changes a file's size; the errno."""
        import ctypes  # a run has it anyway; nothing else comes here

        allocate = ctypes.CDLL(None, use_errno=True).fallocate
        allocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        while allocate(descriptor, _KEEP_SIZE, 0, size) != 0:
            if ctypes.get_errno() != errno.EINTR:
                return ctypes.get_errno()
        return 0
