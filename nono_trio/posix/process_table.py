"""Who is whose child, and how far below its supervisor a session's command stands.

Linux asks the kernel process by process; macOS asks ps(1) for the whole table at once (not tested
on a Mac).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

# A process table that takes longer to print belongs to a machine that hangs.
_PS_SECONDS = 5.0


def children_by_parent(listing: str) -> dict[int, list[int]]:
    """Read `ps -o pid=,ppid=`: each parent with its children."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for line in listing.splitlines():
        pid, parent = map(int, line.split())
        found[parent].append(pid)
    return found


if sys.platform == "darwin":
    LAUNCHERS = 1  # the launcher, which is the command's own parent

    class ProcessTable:
        """The processes of this moment."""

        def __init__(self) -> None:
            import subprocess

            listing = ""
            with suppress(OSError, subprocess.TimeoutExpired):
                listing = subprocess.run(
                    ["/bin/ps", "-axo", "pid=,ppid="],
                    capture_output=True,
                    text=True,
                    timeout=_PS_SECONDS,
                ).stdout
            self._children = children_by_parent(listing)

        def children(self, pid: int) -> list[int]:
            """The children of a process; none where the system did not say."""
            return self._children.get(pid, [])

else:
    # The launcher, and below it the cage's PID 1; what the command's own processes leave behind
    # comes to PID 1 later than the command did.
    LAUNCHERS = 2

    class ProcessTable:
        """The processes as they are when they are asked for."""

        def children(self, pid: int) -> list[int]:
            """The children of every thread of a process; none where the kernel does not say."""
            found: list[int] = []
            with suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    with suppress(OSError):
                        found += map(int, (thread / "children").read_text("ascii").split())
            return found
