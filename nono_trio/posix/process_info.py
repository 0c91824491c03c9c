"""What the operating system says of a process and of a boot.

One set of functions for each system, chosen where they are defined. The Linux side reads /proc. The
macOS side, which has no /proc, asks ps(1) and sysctl(8); it has not been tested on a Mac.
"""

from __future__ import annotations

import errno
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SETGROUPS = {"x86_64": 116, "aarch64": 159}  # system calls; without a number root's groups stay


# The kernel reports a long list of locks in pieces of a page. A lock that is released between two
# pieces can hide a later one (once in 700 readings, measured under churn), so "no" is asked again
# where the list has more than one piece.
_ONE_PIECE = 3_900
_LOCK_READINGS = 5

# What ps(1) answers of another process takes milliseconds; more is a machine that hangs.
_ASK_SECONDS = 5.0


def started_of(answer: str) -> int | None:
    """When a process began, in seconds since 1970, by `ps -o state=,lstart=` in UTC.

    None for an empty answer (no such process) and for a zombie.
    """
    state, _, began = answer.strip().partition(" ")
    if not began or state.startswith("Z"):
        return None
    moment = datetime.strptime(" ".join(began.split()), "%a %b %d %H:%M:%S %Y")
    return int(moment.replace(tzinfo=UTC).timestamp())


def output_of(*command: str) -> str:
    """What a program of the system prints, in the C locale and UTC; empty when it fails."""
    import subprocess

    surroundings = {"LC_ALL": "C", "TZ": "UTC0"}
    try:
        return subprocess.run(
            command, env=surroundings, capture_output=True, text=True, timeout=_ASK_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


if sys.platform == "darwin":

    def process_start_ticks(pid: int) -> int | None:
        """When a process began, in seconds; None when there is none or it is a zombie."""
        return started_of(output_of("/bin/ps", "-o", "state=,lstart=", "-p", str(pid)))

    def boot_id() -> str:
        """What tells this boot from any other; not the boot's time, which moves with the clock."""
        return output_of("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()

    def is_mapped(_user: int) -> bool:
        """Whether a user exists here; there are no namespaces of users."""
        return True

    def set_file_identity(_user: int, _group: int, _groups: Sequence[int]) -> None:
        """There is nothing like it here."""
        raise OSError(errno.ENOTSUP, "root can't work here as the owner of another's directory")

    def process_users(pid: int) -> frozenset[int]:
        """The real and effective user of a process; empty when there is none."""
        return frozenset(map(int, output_of("/bin/ps", "-o", "ruid=,uid=", "-p", str(pid)).split()))

    def holds_lock(_pid: int, _path: Path, *, unknown: bool = True) -> bool:
        """Nothing says here who holds a lock: true, so that the user alone decides."""
        return unknown

else:

    def process_start_ticks(pid: int) -> int | None:
        """Field 22 of /proc/<pid>/stat; None when there is no such process or it is a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (OSError, ValueError):
            return None
        fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may hold spaces and ")"
        return None if fields[0] in (b"Z", b"X") else int(fields[19])

    def boot_id() -> str:
        """What tells this boot from any other; empty where the kernel does not say."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return ""

    def is_mapped(user: int) -> bool:
        """Whether a user exists in our user namespace; all others look like one that has none."""
        try:
            ranges = Path("/proc/self/uid_map").read_text("ascii").splitlines()
        except OSError:
            return True
        spans = [(int(first), int(count)) for first, _, count in map(str.split, ranges)]
        return any(first <= user < first + count for first, count in spans)

    def set_file_identity(user: int, group: int, groups: Sequence[int]) -> None:
        """Be `user` towards file systems, this thread only: setfsuid(2), made for servers.

        It gives up root's rights over files as well. Raises OSError.
        """
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        number = _SETGROUPS.get(os.uname().machine)
        if number is not None:  # the library's own function would change every thread
            array = (ctypes.c_uint32 * len(groups))(*groups)
            library.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), array)
        for change, wanted in ((library.setfsgid, group), (library.setfsuid, user)):
            change(wanted)
            if change(-1) != wanted:  # it reports nothing, so ask
                raise OSError(errno.EPERM, f"can't work as the owner {wanted} of this directory")

    def process_users(pid: int) -> frozenset[int]:
        """The real, effective, saved and file user of a process; empty when there is none.

        Not the owner of /proc/<pid>: that is root's for every process that must not be dumped.
        """
        try:
            status = Path(f"/proc/{pid}/status").read_bytes()
        except (OSError, ValueError):
            return frozenset()
        line = next((line for line in status.split(b"\n") if line.startswith(b"Uid:")), b"")
        return frozenset(map(int, line.split()[1:]))

    def holds_lock(pid: int, path: Path, *, unknown: bool = False) -> bool:
        """Whether a process holds an exclusive flock on the file at `path`.

        `unknown` is the answer where the kernel does not say who holds which.
        """
        try:
            inode = path.stat().st_ino
        except OSError:
            return False
        for _ in range(_LOCK_READINGS):
            try:
                locks = Path("/proc/locks").read_bytes()
            except OSError:
                return unknown
            if _is_holder(pid, inode, locks):
                return True
            if len(locks) < _ONE_PIECE:
                break
        return False

    def _is_holder(pid: int, inode: int, locks: bytes) -> bool:
        for line in locks.split(b"\n"):  # 1: FLOCK ADVISORY WRITE 1234 fe:00:5678 0 EOF
            fields = line.split()
            if (
                fields[1:2] == [b"FLOCK"]
                and fields[3:5] == [b"WRITE", b"%d" % pid]
                and fields[5].endswith(b":%d" % inode)
            ):
                return True
        return False
