"""The system calls that a cage refuses or sends to the supervisor, and why.

Rules of this file: data only, for the filter in seccomp.py, which sees numbers only. Families of
calls are covered completely: docs/system-calls.md lists every call that takes another process'
number and why it is safe; a test checks the list. ENOSYS is for calls that programs can do without.
"""

from __future__ import annotations

import errno
import socket

from .seccomp import NOTIFY, CallRule

_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# These make a terminal useless for its next user: its line discipline, and a console's modes of
# screen, keyboard and switching.
_TIOCSETD, _KDSETMODE, _KDSKBMODE, _VT_SETMODE = 0x5423, 0x4B3A, 0x4B45, 0x5602
_KDSKBMUTE, _TIOCCONS = 0x4B51, 0x541D
_TERMINAL = (
    _TIOCSTI, _TIOCLINUX, _TIOCSETD, _KDSETMODE, _KDSKBMODE, _VT_SETMODE, _KDSKBMUTE, _TIOCCONS,
)  # fmt: skip
_MSG_FASTOPEN = 0x20000000
_SO_BINDTOIFINDEX = 62
_DETOURS = (
    (socket.IPPROTO_IP, socket.IP_OPTIONS),
    (socket.SOL_SOCKET, socket.SO_BINDTODEVICE),
    (socket.SOL_SOCKET, _SO_BINDTOIFINDEX),
)

_SET_USER, _SET_GROUP = 0o4000, 0o2000  # S_ISUID, S_ISGID
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE: else open(2) ignores its mode
_NEW_USER = 0x10000000  # CLONE_NEWUSER
# FS_IOC_SETFLAGS, FSSETXATTR, SETVERSION; irrevocable: ENABLE_VERITY, SET_ENCRYPTION_POLICY
_SET_FLAGS = (0x40086602, 0x401C5820, 0x40087602, 0x40806685, 0x800C6613)
# btrfs and bcachefs calls that make, snapshot and remove whole trees, past Landlock and the mount:
# a snapshot holds the whole file system, below the one granted directory.
_WHOLE_TREES = (
    0x50009401, 0x50009417, 0x5000940E, 0x50009418, 0x5000940F, 0x5000943F, 0x4008941A,
    0x4020BC10, 0x4020BC11,
)  # fmt: skip
_F_SETLEASE = 1024
_PRIO_PROCESS, _PRIO_USER = 0, 2
_IOPRIO_PROCESS, _IOPRIO_USER = 1, 3

_CHMOD = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}  # the argument that is the mode
_SCHEDULING = ("sched_setparam", "sched_setscheduler", "sched_setattr", "sched_setaffinity")
_INIT = 1  # of the cage's own PID namespace: it keeps the session's deadline

# In every cage.
COMMON = (
    # First, because it is the most frequent call. The bits make a program run with its owner's
    # rights for every user, also outside of the cage.
    CallRule("openat", errno.EPERM, 3, bits=_SET_USER | _SET_GROUP, when=(2, _CREATES)),
    CallRule("open", errno.EPERM, 2, bits=_SET_USER | _SET_GROUP, when=(1, _CREATES)),
    CallRule("openat2", errno.ENOSYS),  # its mode lies behind a pointer
    CallRule("creat", errno.EPERM, 1, bits=_SET_USER | _SET_GROUP),
    CallRule("mknod", errno.EPERM, 1, bits=_SET_USER | _SET_GROUP),
    CallRule("mknodat", errno.EPERM, 2, bits=_SET_USER | _SET_GROUP),
    CallRule("mkdir", errno.EPERM, 1, bits=_SET_USER),
    CallRule("mkdirat", errno.EPERM, 2, bits=_SET_USER),
    CallRule("socket", errno.EAFNOSUPPORT, 0, only=_FAMILIES),
    CallRule("socketpair", errno.EAFNOSUPPORT, 0, only=_FAMILIES),
    CallRule("ioctl", errno.EPERM, 1, never=_TERMINAL),
    CallRule("ioctl", errno.EPERM, 1, never=_WHOLE_TREES),
    # Opening a leased file blocks for up to 45 s: an editor outside that saves a file which the
    # cage may read, or the next session that starts a program.
    CallRule("fcntl", errno.EPERM, 1, never=(_F_SETLEASE,)),
    # Another process' limits: RLIMIT_CPU kills it. The kernel checks the uid only, no LSM.
    CallRule("prlimit64", errno.EPERM, 0, only=(0,)),
    # A user namespace gives its maker every capability inside, and so access to much of the kernel.
    # Programs with their own sandbox (browsers) run without it in a cage.
    CallRule("unshare", errno.EPERM, 0, bits=_NEW_USER),
    CallRule("clone", errno.EPERM, 0, bits=_NEW_USER),
    CallRule("setns", errno.EPERM),
    CallRule("clone3", errno.ENOSYS),  # its flags lie behind a pointer; libc takes clone then
    *(CallRule(call, errno.ENOSYS) for call in ("keyctl", "add_key", "request_key")),
    *(
        CallRule(call, errno.ENOSYS)
        for call in ("io_uring_setup", "io_uring_enter", "io_uring_register")
    ),
)

# For a cage with its own PID namespace. There PID 1 is the only visible process that is not the
# child's, and the child must not be able to stop or slow it.
OWN_PROCESSES = (
    *(CallRule(call, errno.EPERM, 0, never=(_INIT,)) for call in _SCHEDULING),
    CallRule("setpriority", errno.EPERM, 0, never=(_PRIO_USER,)),
    CallRule("setpriority", errno.EPERM, 1, pairs=((_PRIO_PROCESS, _INIT),)),
    CallRule("ioprio_set", errno.EPERM, 0, never=(_IOPRIO_USER,)),
    CallRule("ioprio_set", errno.EPERM, 1, pairs=((_IOPRIO_PROCESS, _INIT),)),
)

# For the cage of an ordinary user. A process that forbids others to look into it belongs to root in
# /proc, so the supervisor could not tell which program asks, nor whether a look-up creates a file.
# The call succeeds and does nothing: key agents make it, and go on without it.
_PR_SET_DUMPABLE = 4
READABLE = (CallRule("prctl", 0, 1, pairs=((_PR_SET_DUMPABLE, 0),)),)

# Arguments that are a user's and a group's number.
_IDS = {
    "chown": (1, 2), "lchown": (1, 2), "fchown": (1, 2), "fchownat": (2, 3),
    "setuid": (0, None), "setreuid": (0, None), "setresuid": (0, None),
    "setgid": (None, 0), "setregid": (None, 0), "setresgid": (None, 0),
}  # fmt: skip
_UNCHANGED = 0xFFFFFFFF  # -1


def only_own_ids(user: int, group: int) -> tuple[CallRule, ...]:
    """Return rules for a cage that maps one id: EPERM for the others, as programs expect.

    Without them the kernel returns EINVAL."""
    own = ((user, _UNCHANGED), (group, _UNCHANGED))
    return tuple(
        CallRule(call, errno.EPERM, argument, only=only)
        for call, arguments in _IDS.items()
        for argument, only in zip(arguments, own, strict=True)
        if argument is not None
    )


# For a cage that shares the host's network, IPC objects, metadata of files and processes.
SHARED_HOST = (
    CallRule("sendto", errno.EPERM, 3, bits=_MSG_FASTOPEN),
    CallRule("sendmsg", errno.EPERM, 2, bits=_MSG_FASTOPEN),
    CallRule("sendmmsg", errno.EPERM, 3, bits=_MSG_FASTOPEN),
    # A connection to the proxy whose packets go elsewhere: by a source route, by an interface.
    CallRule("setsockopt", errno.EPERM, 2, pairs=_DETOURS),
    *(CallRule(call, errno.EPERM) for call in ("mq_open", "mq_unlink")),
    *(
        CallRule(call, errno.EPERM)
        for call in (
            "shmget", "shmat", "shmctl", "semget", "semop", "semctl", "semtimedop",
            "msgget", "msgsnd", "msgrcv", "msgctl",
        )
    ),
    # Groups and users have members outside.
    CallRule("setpriority", errno.EPERM, 0, only=(_PRIO_PROCESS,)),
    CallRule("ioprio_set", errno.EPERM, 0, only=(_IOPRIO_PROCESS,)),
    CallRule("fanotify_init", errno.EPERM),
    *(CallRule(call, errno.ENOSYS) for call in ("setxattrat", "removexattrat", "file_setattr")),
    CallRule("ioctl", errno.EOPNOTSUPP, 1, never=_SET_FLAGS),
)  # fmt: skip

# Numbers of other processes than the caller, which is 0 in each of these.
_OF_OTHERS = (
    *((call, 0) for call in _SCHEDULING),
    ("setpriority", 1),
    ("ioprio_set", 1),
)
# The broker decides these calls; without a broker a process may change only itself.
NOTIFY_PROCESSES = tuple(CallRule(call, NOTIFY, pid, only=(0,)) for call, pid in _OF_OTHERS)
OWN_ONLY = tuple(CallRule(call, errno.EPERM, pid, only=(0,)) for call, pid in _OF_OTHERS)

NOTIFY_CONNECTIONS = (CallRule("connect", NOTIFY), CallRule("listen", NOTIFY))

# Modes: what may be set on a directory but not on a file depends on what a path leads to.
_SET_BITS = _SET_USER | _SET_GROUP
NOTIFY_MODES = tuple(CallRule(call, NOTIFY, mode, bits=_SET_BITS) for call, mode in _CHMOD.items())
NO_SET_USER = tuple(
    CallRule(call, errno.EPERM, mode, bits=_SET_USER) for call, mode in _CHMOD.items()
)
NO_SET_BITS = tuple(
    CallRule(call, errno.EPERM, mode, bits=_SET_BITS) for call, mode in _CHMOD.items()
)

# All metadata, in a cage without a view: there no mounts protect it. Times set by descriptor pass:
# the child could open the file, and nearly every copy and archive sets them.
NOTIFY_METADATA = (
    *(CallRule(call, NOTIFY) for call in _CHMOD),
    *(
        CallRule(call, NOTIFY)
        for call in (
            "chown", "lchown", "fchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr",
            "removexattr", "lremovexattr", "fremovexattr", "utime", "utimes", "futimesat",
            "inotify_add_watch",
        )
    ),
    CallRule("utimensat", NOTIFY, 1, only=(0,)),
    CallRule("utimensat", NOTIFY, 1, only=(0,), high=True),
)  # fmt: skip

NOTIFY_HOST = (*NOTIFY_CONNECTIONS, *NOTIFY_PROCESSES, *NOTIFY_METADATA)
