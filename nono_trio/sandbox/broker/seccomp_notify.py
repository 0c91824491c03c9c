"""Seccomp notifications: system calls of the child that wait for the supervisor's answer.

See seccomp_unotify(2). Rules of this file: only the kernel's interface, no decisions; all functions
raise OSError. Another thread of the caller can change its memory and its descriptors at any time.
So a call that was checked by either must not continue (SECCOMP_USER_NOTIF_FLAG_CONTINUE): the
supervisor performs it on its own copies. `let_go_on` is only for calls that were checked by their
register arguments, which the kernel has already copied.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

import msgspec

from nono_trio.sandbox.launcher.linux import syscalls

if TYPE_CHECKING:
    from pathlib import Path

# linux/seccomp.h: _IOWR('!', 0, 80 bytes), _IOWR('!', 1, 24 bytes), _IOW('!', 2, 8 bytes).
_RECEIVE, _SEND, _IS_WAITING = 0xC0502100, 0xC0182101, 0x40082102
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, thread, flags, call, architecture, at, arguments
_ANSWER = struct.Struct("=QqiI")  # id, value, negative errno, flags
_IDENTITY = struct.Struct("=Q")
_SET_FLAGS, _SYNC_WAKE_UP = 0x40082104, 1  # _IOW('!', 4, 8 bytes)
_PIDFD_THREAD = os.O_EXCL
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE

_YAMA_ADMIN_ONLY = 2  # from this ptrace_scope on, being the parent does not suffice
_CAP_SYS_PTRACE = 19


class Notification(msgspec.Struct, frozen=True):
    """A waiting call; `thread` is the caller's id in our PID namespace."""

    identity: int
    thread: int
    call: int
    arguments: tuple[int, ...]


class Returned(msgspec.Struct, frozen=True):
    """The return value of a performed call, if it is not 0."""

    value: int


def wake_up_at_once(listener: int) -> None:
    """Let the kernel run caller and supervisor in turns on one processor: calls take half the time.

    Raises OSError before Linux 6.6.
    """
    fcntl.ioctl(listener, _SET_FLAGS, _IDENTITY.pack(_SYNC_WAKE_UP))


def as_int(argument: int) -> int:
    """Return an argument as a C int; the kernel uses its low 32 bits."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def receive(listener: int) -> Notification | None:
    """Take the next call; None if its thread has ended. Blocks unless `listener` is readable."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer, True)
    except FileNotFoundError:
        return None
    identity, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(identity, thread, call, tuple(arguments))


def answer(listener: int, notification: Notification, number: int, value: int = 0) -> None:
    """Let the call return `value`, or fail with the errno `number`; ignores an ended thread."""
    _send(listener, _ANSWER.pack(notification.identity, value, -number, 0))


def let_go_on(listener: int, notification: Notification) -> None:
    """Let the kernel perform the call; only after a check of register arguments (see above)."""
    _send(listener, _ANSWER.pack(notification.identity, 0, 0, _CONTINUE))


def _send(listener: int, reply: bytes) -> None:
    try:
        fcntl.ioctl(listener, _SEND, reply)
    except FileNotFoundError:
        return


def is_waiting(listener: int, notification: Notification) -> bool:
    """Tell whether the call still waits: otherwise its thread id may have been reused."""
    try:
        fcntl.ioctl(listener, _IS_WAITING, _IDENTITY.pack(notification.identity))
    except FileNotFoundError:
        return False
    return True


def read_memory(thread: int, address: int, length: int) -> bytes:
    """Read `length` bytes of the thread's memory. Raises OSError; EFAULT for a bad address."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        try:
            data = os.pread(memory.fileno(), length, address)
        except (OSError, OverflowError) as error:  # EIO; an address over 2**63
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from error
    if len(data) < length:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def copy_descriptor(thread: int, descriptor: int) -> int:
    """Copy the thread's `descriptor` into this process.

    Before Linux 6.9 the descriptor is that of the process: wrong for a thread with its own
    descriptor table, and an error if the process' first thread has ended.
    """
    try:
        handle = os.pidfd_open(thread, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        handle = os.pidfd_open(process_of(thread))
    try:
        return syscalls.pidfd_getfd(handle, descriptor)
    finally:
        os.close(handle)


def process_of(thread: int) -> int:
    """Return the process id of a thread."""
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def refused_by(proc: Path) -> str | None:
    """Return why this process can't inspect its child; None if it can.

    Only the launcher finds out whether another process already handles notifications.
    """
    try:
        own = os.pidfd_open(os.getpid())
        try:
            os.close(syscalls.pidfd_getfd(own, own))
        finally:
            os.close(own)
    except OSError as error:
        return (
            f"pidfd_getfd is refused ({error.strerror}), by a container's seccomp profile perhaps"
        )
    return _refused_by_yama(proc)


def _refused_by_yama(proc: Path) -> str | None:
    try:
        scope = int((proc / "sys/kernel/yama/ptrace_scope").read_text("ascii"))
    except (OSError, ValueError):
        return None
    if scope < _YAMA_ADMIN_ONLY or (scope == _YAMA_ADMIN_ONLY and _may_trace(proc)):
        return None
    return f"kernel.yama.ptrace_scope is {scope}"


def _may_trace(proc: Path) -> bool:
    for line in (proc / "self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_PTRACE & 1)
    return False
