"""The call statx, which Python 3.11 has no name for: what the kernel knows of a file already.

Rules of this file: the file system itself is not asked, and nothing is mounted. A server that does
not respond (a network's, or one of FUSE) holds a thread which no signal ends. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, TypeAlias

Device: TypeAlias = tuple[int, int]

_NUMBERS: Final = {"x86_64": 332, "aarch64": 291, "riscv64": 291}
_FDCWD: Final = -100
_NO_FOLLOW, _NO_AUTOMOUNT, _EMPTY_PATH, _DONT_SYNC = 0x100, 0x800, 0x1000, 0x4000
_TYPE: Final = 0x1  # a result's mask for the file's type
# Of struct statx: its size, the mode, and the two numbers of the device.
_SIZE: Final = 256
_MODE: Final = struct.Struct("=28xH")
_DEVICE: Final = struct.Struct("=136xII")
_libc: Final = ctypes.CDLL(None, use_errno=True)


def known_mode(path: bytes) -> int:
    """Return the mode of the file at `path`, following no last symlink. Raises OSError.

    As os.lstat, but the server of a mount at `path` itself is not asked. Where the call is not
    known, os.lstat is used.
    """
    result = _statx(_FDCWD, path, _NO_FOLLOW, _TYPE)
    if result is None:
        return os.lstat(path).st_mode
    mode: int = _MODE.unpack_from(result)[0]
    return mode


def known_device(file: int) -> Device | None:
    """Return the device that an open file is on, by its major and minor number; None where the call
    is not known. Raises OSError."""
    result = _statx(file, b"", _EMPTY_PATH, 0)
    if result is None:
        return None
    major, minor = _DEVICE.unpack_from(result)
    return major, minor


def _statx(place: int, path: bytes, flags: int, mask: int) -> bytes | None:
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        return None
    result = ctypes.create_string_buffer(_SIZE)
    flags |= _NO_AUTOMOUNT | _DONT_SYNC
    if _libc.syscall(number, place, path, flags, mask, result) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"statx: {os.strerror(error)}")
    return result.raw
