"""The system call numbers that the filter needs, for each supported architecture.

Rules of this file: data only. A call that a machine lacks has the number None there; newer machines
lack the old calls that take a path without a directory. Standard library only: it runs in the
launcher.
"""

from __future__ import annotations

import os
from functools import cache

# linux/audit.h; the column of NUMBERS.
ARCHITECTURES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
}

# The last number of Linux 6.17, the same on every architecture. docs/system-calls.md covers the
# calls up to it; later calls get ENOSYS, as on an older kernel, until they have been reviewed.
NEWEST = 469

# x86_64, then the numbers that newer machines share.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29), "prlimit64": (302, 261),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "connect": (42, 203), "listen": (50, 201), "bind": (49, 200),
    "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "setsockopt": (54, 208), "fcntl": (72, 25),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
    # Modes and other metadata of files.
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "file_setattr": (469, 469), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
    # Calls that make something at a path.
    "symlink": (88, None), "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "prctl": (157, 167),
    # Namespaces.
    "unshare": (272, 97), "setns": (308, 268), "clone": (56, 220), "clone3": (435, 435),
    # Other processes' share of the processor and of the disk.
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "setpriority": (141, 140), "ioprio_set": (251, 30),
}  # fmt: skip


def number_of(call: str) -> int | None:
    """Return the call's number on this machine, None if it lacks the call."""
    return NUMBERS[call][ARCHITECTURES[os.uname().machine][1]]


def call_name(number: int) -> str | None:
    """Return the name of the call with this number, None for any other number."""
    return _names().get(number)


@cache
def _names() -> dict[int, str]:
    return {number: call for call in NUMBERS if (number := number_of(call)) is not None}
