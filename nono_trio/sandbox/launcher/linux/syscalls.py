"""The few system calls that Python 3.11 has no name for, each raising OSError with its name.

Only what the launcher needs, only for Linux; numbers and flags are from the kernel's uapi
headers. The capability list says what a child that runs as root keeps, and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# A root child keeps what root needs for files of many owners (all of them still behind Landlock
# and the mount view) and for ports below 1024 of its own empty network. Everything that reaches
# the kernel itself goes: SYS_ADMIN, NET_ADMIN, NET_RAW, SYS_PTRACE, MKNOD, SYS_CHROOT and so on.
_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID, _CAP_KILL = 0, 1, 3, 4, 5
_CAP_SETGID, _CAP_SETUID, _CAP_NET_BIND_SERVICE = 6, 7, 10
KEPT_CAPABILITIES = frozenset(
    {
        _CAP_CHOWN,
        _CAP_DAC_OVERRIDE,
        _CAP_FOWNER,
        _CAP_FSETID,
        _CAP_KILL,
        _CAP_SETGID,
        _CAP_SETUID,
        _CAP_NET_BIND_SERVICE,
    }
)
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_MODE_FILTER = 2
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_HIGHEST_CAPABILITY = 63  # capability sets are 64 bits wide; unknown numbers answer EINVAL

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", path)
    return result


def unshare(flags: int) -> None:
    """Move this process (CLONE_NEWPID: its next children) into new namespaces."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount `source` at `target`; `kind` is the file system's name, empty for bind mounts."""
    _checked(
        _libc.mount(
            source.encode("utf-8", "surrogateescape"),
            target.encode("utf-8", "surrogateescape"),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        "mount",
        target,
    )


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """Take a mount out of the tree."""
    _checked(_libc.umount2(target.encode("utf-8", "surrogateescape"), flags), "umount2", target)


_MOUNT_SETATTR = 442  # the same number on every architecture; since Linux 5.12, Landlock is 5.13
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 0x1


def make_read_only(target: str) -> None:
    """Make the mount at `target` and every mount below it read-only."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    _checked(
        _libc.syscall(
            _MOUNT_SETATTR,
            _AT_FDCWD,
            target.encode("utf-8", "surrogateescape"),
            _AT_RECURSIVE,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        ),
        "mount_setattr",
        target,
    )


# The same numbers on every architecture; since Linux 5.2.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_CLOSE_ON_EXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 0x2, 0x4
_MOVE_MOUNT_F_EMPTY_PATH = 0x4


def make_mount(kind: str, options: Mapping[str, str | None]) -> int:
    """Make a file system that is mounted nowhere yet; return the descriptor of its mount.

    `options`: None for one without a value. No set-user-id and no device file counts in it.
    """
    context = _checked(_libc.syscall(_FSOPEN, kind.encode(), _CLOSE_ON_EXEC), "fsopen")
    try:
        for name, value in options.items():
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            text = None if value is None else value.encode()
            done = _libc.syscall(_FSCONFIG, context, command, name.encode(), text, 0)
            _checked(done, f"fsconfig {name}")
        _checked(_libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig")
        attributes = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
        return _checked(_libc.syscall(_FSMOUNT, context, _CLOSE_ON_EXEC, attributes), "fsmount")
    finally:
        os.close(context)


def attach_mount(descriptor: int, target: str) -> None:
    """Mount at `target` what `make_mount` returned."""
    done = _libc.syscall(
        _MOVE_MOUNT, descriptor, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH
    )
    _checked(done, "move_mount", target)


_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace, the old one appears at `put_old`."""
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root: no call number known for {os.uname().machine}")
    _checked(_libc.syscall(number, new_root.encode(), put_old.encode()), "pivot_root", new_root)


# The same numbers on every architecture; scopes since Linux 6.12 (ABI 6), flags since 6.15 (ABI 7).
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_SCOPE_SIGNAL = 0x2
_LANDLOCK_LOG_SAME_EXEC_OFF = 0x1


def scope_signals() -> None:
    """Enter a Landlock domain that limits only signals: to the processes in it.

    Refused signals are not in the kernel's audit log: one kill(-1) is refused for each process
    outside. Needs PR_SET_NO_NEW_PRIVS. Raises OSError without it, and on an older kernel.
    """
    attributes = (ctypes.c_uint64 * 3)(0, 0, _LANDLOCK_SCOPE_SIGNAL)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    made = _libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    ruleset = _checked(made, "landlock_create_ruleset")
    try:
        flags = _LANDLOCK_LOG_SAME_EXEC_OFF
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, flags) < 0:  # ABI 6 knows no flag
            done = _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
            _checked(done, "landlock_restrict_self")
    finally:
        os.close(ruleset)


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    """Call prctl with up to two arguments, the rest zero as the kernel requires."""
    arguments = (
        ctypes.c_ulong(first),
        ctypes.c_ulong(second),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    return _checked(_libc.prctl(option, *arguments), "prctl")


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to send `signal_number` here when the thread that made this process ends."""
    prctl(PR_SET_PDEATHSIG, signal_number)


def drop_capabilities() -> None:
    """Keep only `KEPT_CAPABILITIES` as root; drop every capability as another user.

    This limits the next program: execve gives uid 0 the bounding set. The caller must also set
    PR_SET_NO_NEW_PRIVS; then the process' own sets suffice, even if the bounding set can't be
    changed. That needs CAP_SETPCAP, which ordinary users and root in many containers lack.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    kept = KEPT_CAPABILITIES if os.geteuid() == 0 else frozenset[int]()
    with contextlib.suppress(PermissionError):
        _drop_bounding_set(kept)
    _keep_capabilities(kept)


def _drop_bounding_set(kept: frozenset[int]) -> None:
    for number in range(_HIGHEST_CAPABILITY + 1):
        if number in kept:
            continue
        if _libc.prctl(PR_CAPBSET_READ, ctypes.c_ulong(number), 0, 0, 0) == 1:
            prctl(PR_CAPBSET_DROP, number)


def _keep_capabilities(kept: frozenset[int]) -> None:
    """Remove all but `kept` from this process' effective, permitted and inheritable sets."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # the three sets of numbers below 32, then of those above
    _checked(_libc.capget(ctypes.byref(header), ctypes.byref(sets)), "capget")
    mask = sum(1 << number for number in kept)
    for index in range(6):
        sets[index] &= (mask >> (32 if index > 2 else 0)) & 0xFFFFFFFF
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")


def leave_session_keyring() -> None:
    """Join an empty session keyring, so that this process no longer possesses the caller's keys.

    Errors are ignored: a kernel without keys, or a container's filter that refuses keyctl, gives
    access to no keys.
    """
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def install_filter(program: bytes) -> None:
    """Install a seccomp filter, given as its BPF instructions (8 bytes each)."""
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count in front of an aligned pointer.
    described = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(code))
    prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


_PIDFD_GETFD = 438  # the same number on every architecture; since Linux 5.6


def pidfd_getfd(process: int, descriptor: int) -> int:
    """Duplicate the `descriptor` of the process behind a pidfd into this one, close-on-exec."""
    return _checked(_libc.syscall(_PIDFD_GETFD, process, descriptor, 0), "pidfd_getfd")


_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}
_SECCOMP_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5  # since Linux 5.19


def install_notifying_filter(program: bytes) -> int:
    """Install a seccomp filter with notifications; return the notification descriptor.

    Handled signals don't interrupt a call that waits for its answer: otherwise it would restart and
    send a second notification (Go's runtime sends itself such signals often).
    """
    number = _SECCOMP.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"seccomp: no call number known for {os.uname().machine}")
    code = ctypes.create_string_buffer(program, len(program))
    described = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(code))
    flags = ctypes.c_ulong(_NEW_LISTENER | _WAIT_KILLABLE)
    result = _libc.syscall(number, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(described))
    return _checked(result, "seccomp")
