"""What the operating system says of a process and of a boot, and how bytes reach its disk.

One set of functions for each system, chosen where they are defined. The Linux side reads /proc. The
macOS side, which has no /proc, asks ps(1) and sysctl(8); it has not been tested on a Mac.
"""

from __future__ import annotations

import fcntl
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

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


def _say(*command: str) -> str:
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
        return started_of(_say("/bin/ps", "-o", "state=,lstart=", "-p", str(pid)))

    def boot_id() -> str:
        """What tells this boot from any other; not the boot's time, which moves with the clock."""
        return _say("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()

    def sync_data(descriptor: int) -> None:
        """Make a file's bytes durable: fsync(2) stops at the drive's cache here (its manual)."""
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError:  # a file system that has no such thing, most often of another machine's
            os.fsync(descriptor)

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

    def sync_data(descriptor: int) -> None:
        """Make a file's bytes durable, and of its metadata what finding them again needs."""
        os.fdatasync(descriptor)
