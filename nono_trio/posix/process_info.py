"""Facts about processes and the current boot: start times, users, locks.

Each system has its own set of functions. Linux reads /proc; macOS runs ps(1) and sysctl(8), which
was not tested on a Mac.
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
# pieces can hide a later one (once in 700 readings, measured under churn). So a longer list is read
# again before the answer is "no".
_ONE_PIECE = 3_900
_LOCK_READINGS = 5

# ps(1) takes milliseconds; if it takes longer, the machine hangs.
_ASK_SECONDS = 5.0


def started_of(answer: str) -> int | None:
    """Parse `ps -o state=,lstart=` in UTC: the start time in seconds since 1970.

    Return None for an empty answer (no such process) and for a zombie.
    """
    state, _, began = answer.strip().partition(" ")
    if not began or state.startswith("Z"):
        return None
    moment = datetime.strptime(" ".join(began.split()), "%a %b %d %H:%M:%S %Y")
    return int(moment.replace(tzinfo=UTC).timestamp())


def output_of(*command: str) -> str:
    """Return the output of a system program, run in the C locale and UTC; empty if it fails."""
    import subprocess

    variables = {"LC_ALL": "C", "TZ": "UTC0"}
    try:
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=_ASK_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


if sys.platform == "darwin":

    def process_start_ticks(pid: int) -> int | None:
        """Return the start time in seconds; None for a zombie or a pid without a process."""
        return started_of(output_of("/bin/ps", "-o", "state=,lstart=", "-p", str(pid)))

    def boot_id() -> str:
        """Return an identifier of this boot. Not the boot time, which moves with the clock."""
        return output_of("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()

    def is_mapped(_user: int) -> bool:
        """Return True: macOS has no user namespaces."""
        return True

    def set_file_identity(_user: int, _group: int, _groups: Sequence[int]) -> None:
        """Raise OSError: macOS has no identity of its own for file systems."""
        raise OSError(errno.ENOTSUP, "root can't work here as the owner of another's directory")

    def process_users(pid: int) -> frozenset[int]:
        """Return the real and effective user id; empty for a pid without a process."""
        return frozenset(map(int, output_of("/bin/ps", "-o", "ruid=,uid=", "-p", str(pid)).split()))

    def holds_lock(_pid: int, _path: Path, *, unknown: bool = True) -> bool:
        """Return `unknown`: macOS does not show lock holders, so the user id alone decides."""
        return unknown

else:

    def process_start_ticks(pid: int) -> int | None:
        """Return field 22 of /proc/<pid>/stat; None for a zombie or a pid without a process."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (OSError, ValueError):
            return None
        fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may hold spaces and ")"
        return None if fields[0] in (b"Z", b"X") else int(fields[19])

    def boot_id() -> str:
        """Return an identifier of this boot; empty if the kernel shows no boot id."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return ""

    def is_mapped(user: int) -> bool:
        """Tell whether our user namespace maps `user`; unmapped users all show as one id."""
        try:
            ranges = Path("/proc/self/uid_map").read_text("ascii").splitlines()
        except OSError:
            return True
        spans = [(int(first), int(count)) for first, _, count in map(str.split, ranges)]
        return any(first <= user < first + count for first, count in spans)

    def set_file_identity(user: int, group: int, groups: Sequence[int]) -> None:
        """Set this thread's identity towards file systems with setfsuid(2).

        The thread loses root's rights over files as well. Raises OSError.
        """
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        number = _SETGROUPS.get(os.uname().machine)
        if number is not None:  # the library's own function would change every thread
            array = (ctypes.c_uint32 * len(groups))(*groups)
            library.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), array)
        for change, wanted in ((library.setfsgid, group), (library.setfsuid, user)):
            change(wanted)
            if change(-1) != wanted:  # it reports no error, so compare
                raise OSError(errno.EPERM, f"can't work as the owner {wanted} of this directory")

    def process_users(pid: int) -> frozenset[int]:
        """Return the real, effective, saved and file-system user id; empty without a process.

        The owner of /proc/<pid> won't do: root owns it for every non-dumpable process.
        """
        try:
            status = Path(f"/proc/{pid}/status").read_bytes()
        except (OSError, ValueError):
            return frozenset()
        line = next((line for line in status.split(b"\n") if line.startswith(b"Uid:")), b"")
        return frozenset(map(int, line.split()[1:]))

    def holds_lock(pid: int, path: Path, *, unknown: bool = False) -> bool:
        """Tell whether a process holds an exclusive flock on the file at `path`.

        Returns `unknown` if the kernel does not list lock holders.
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
