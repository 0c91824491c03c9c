"""System calls by which the supervisor changes a file for the child.

These have no name in Python, or libc would apply them to every thread; each raises OSError. Rules
of this file: only the kernel's interface, no decisions; a file is an open descriptor (O_PATH), not
a path, which could lead to another file by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

_OPENAT2: Final = 437  # the same number on every architecture; since Linux 5.6
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_IN_ROOT: Final = 0x10
_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159, "riscv64": 159}
# setresuid, setresgid
_SET_IDS: Final = {"x86_64": (117, 119), "aarch64": (147, 149), "riscv64": (147, 149)}
_CAPABILITY_VERSION_3: Final = 0x20080522
_UNCHANGED: Final = -1  # an invalid id: the kernel changes nothing and returns the current one
_AT_EMPTY_PATH: Final = 0x1000


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def by_hold(held: int) -> bytes:
    """Return a path that always leads to the held file."""
    return b"/proc/self/fd/%d" % held


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """Open `path` with `root` as the root directory; magic links are refused."""
    return _open(root, path, flags, _RESOLVE_IN_ROOT)


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Open `path` below `directory`; raises EXDEV for a path that leads out of it."""
    return _open(directory, path, flags, _RESOLVE_BENEATH)


def _open(start: int, path: bytes, flags: int, resolve: int) -> int:
    how = (ctypes.c_uint64 * 3)(flags, 0, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _checked(_libc.syscall(_OPENAT2, start, path, ctypes.byref(how), size))


def change_owner(held: int, uid: int, gid: int) -> None:
    """Change the owner of the held file, also of a symlink; 2**32 - 1 leaves an id unchanged."""
    owner, group = ctypes.c_uint32(uid), ctypes.c_uint32(gid)
    _checked(_libc.fchownat(held, b"", owner, group, _AT_EMPTY_PATH))


def change_times(held: int, times: bytes | None) -> None:
    """Call utimensat on the held file with a struct timespec[2]; None is the current time."""
    _checked(_libc.utimensat(held, b"", times, _AT_EMPTY_PATH))


def set_attribute(held: int, name: bytes, value: bytes, flags: int) -> None:
    """Call setxattr on the held file, which must not be a symlink."""
    size = ctypes.c_size_t(len(value))
    _checked(_libc.setxattr(by_hold(held), name, value, size, ctypes.c_int(flags)))


def remove_attribute(held: int, name: bytes) -> None:
    """Call removexattr on the held file, which must not be a symlink."""
    _checked(_libc.removexattr(by_hold(held), name))


def watch(inotify: int, held: int, mask: int) -> int:
    """Call inotify_add_watch on the held file; return the watch descriptor."""
    return _checked(_libc.inotify_add_watch(inotify, by_hold(held), ctypes.c_uint32(mask)))


class FileRights(msgspec.Struct, frozen=True):
    """The ids and the capability mask that the kernel checks when a thread uses a file."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int


@contextlib.contextmanager
def file_rights(rights: FileRights, *, effective: bool = False) -> Iterator[None]:
    """Give only the calling thread `rights` over files for the body.

    `effective`: other processes see these ids too, as at the other end of a socket. Raises
    PermissionError unless we are root. If the thread can't get its rights back, the process ends.
    """
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    own, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(ctypes.byref(header), ctypes.byref(own)))
    ctypes.memmove(less, own, ctypes.sizeof(own))
    less[0] &= rights.capabilities & 0xFFFFFFFF  # the effective ones below 32
    gid, groups = os.getegid(), os.getgroups()
    try:
        _set_groups(rights.groups)
        if effective:
            _set_effective(rights.uid, rights.gid)
        _libc.setfsgid(rights.gid)
        _libc.setfsuid(rights.uid)
        if rights.uid == 0:
            _checked(_libc.capset(ctypes.byref(header), ctypes.byref(less)))
        now = (_libc.setfsuid(_UNCHANGED), _libc.setfsgid(_UNCHANGED))
        if now != (rights.uid, rights.gid):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        yield
    finally:
        try:
            if effective:
                _set_effective(0, _UNCHANGED)  # first: root may change the group back
                _set_effective(_UNCHANGED, gid)
            _libc.setfsuid(0)
            _libc.setfsgid(gid)
            _checked(_libc.capset(ctypes.byref(header), ctypes.byref(own)))
            _set_groups(groups)
        except OSError:
            os._exit(1)


def _set_effective(uid: int, gid: int) -> None:
    """Set the effective ids of this thread; real and saved ids stay, so it can change back."""
    set_uid, set_gid = _SET_IDS.get(os.uname().machine, (-1, -1))
    for number, identity in ((set_gid, gid), (set_uid, uid)):
        wanted = ctypes.c_uint32(identity & 0xFFFFFFFF)
        unchanged = ctypes.c_uint32(0xFFFFFFFF)
        _checked(_libc.syscall(number, unchanged, wanted, unchanged))


def _set_groups(groups: Sequence[int]) -> None:
    """Set the groups of this thread; libc's function would change every thread."""
    listed = (ctypes.c_uint32 * len(groups))(*groups)
    number = _SETGROUPS.get(os.uname().machine, -1)
    _checked(_libc.syscall(number, len(groups), ctypes.byref(listed)))
