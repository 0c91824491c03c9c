"""The kernel's seccomp notifications: a system call of the child's that waits for our answer.

seccomp_unotify(2). Rules of this file: only the kernel's interface, no decisions; everything
raises OSError. What is read from the caller's memory can be changed by another of its threads the
moment after, and so can what its descriptor numbers mean: therefore a call that was judged by
either never goes on by itself (SECCOMP_USER_NOTIF_FLAG_CONTINUE). Whoever uses this does what was
asked for on its own copy of the address and of the descriptor. `let_go_on` is for calls that were
judged by numbers alone, which the kernel has taken over before it asked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

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

_YAMA_ADMIN_ONLY = 2  # /proc/sys/kernel/yama/ptrace_scope from which a parent is not enough
_CAP_SYS_PTRACE = 19


class Notification(NamedTuple):
    """One call that waits: `thread` made it, as our PID namespace numbers threads."""

    identity: int
    thread: int
    call: int
    arguments: tuple[int, ...]


class Returned(NamedTuple):
    """What a call returns that was done in its caller's stead, where that is more than success."""

    value: int


def wake_up_at_once(listener: int) -> None:
    """Have the kernel run the one who asks and the one who answers on one processor, by turns: half
    the time of each call. Raises OSError before Linux 6.6."""
    fcntl.ioctl(listener, _SET_FLAGS, _IDENTITY.pack(_SYNC_WAKE_UP))


def receive(listener: int) -> Notification | None:
    """Take the next call, None if its thread has gone; only when `listener` is readable, or it
    blocks."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer, True)
    except FileNotFoundError:
        return None
    identity, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(identity, thread, call, tuple(arguments))


def answer(listener: int, notification: Notification, number: int, value: int = 0) -> None:
    """Let the call return `value`, or fail with the errno `number`; nothing if its thread has
    gone."""
    _send(listener, _ANSWER.pack(notification.identity, value, -number, 0))


def let_go_on(listener: int, notification: Notification) -> None:
    """Let the kernel do the call as it was made; only after a judgement by numbers (see above)."""
    _send(listener, _ANSWER.pack(notification.identity, 0, 0, _CONTINUE))


def _send(listener: int, reply: bytes) -> None:
    try:
        fcntl.ioctl(listener, _SEND, reply)
    except FileNotFoundError:
        return


def is_waiting(listener: int, notification: Notification) -> bool:
    """Whether the call still waits: only then is its thread's number not somebody else's."""
    try:
        fcntl.ioctl(listener, _IS_WAITING, _IDENTITY.pack(notification.identity))
    except FileNotFoundError:
        return False
    return True


def read_memory(thread: int, address: int, length: int) -> bytes:
    """`length` bytes of the thread's memory. Raises OSError: EFAULT where there is none."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        try:
            data = os.pread(memory.fileno(), length, address)
        except (OSError, OverflowError) as error:  # EIO; an address over 2**63
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from error
    if len(data) < length:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def copy_descriptor(thread: int, descriptor: int) -> int:
    """Our own descriptor for what the thread has open as `descriptor`.

    Before Linux 6.9 for what its process has: wrong for a thread that has its files for itself, and
    none where the process' first thread has ended.
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
    """The thread's process."""
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def refused_by(proc: Path) -> str | None:
    """What keeps this process from looking into its child; None where nothing does. Not asked: a
    listener that a container has already installed, which only the launcher finds out."""
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
