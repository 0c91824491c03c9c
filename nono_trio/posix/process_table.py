"""Process trees: the children of a process, and the depth of a session's command.

Linux reads the children of one process at a time; macOS runs ps(1) once for the whole table (not
tested on a Mac).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

# If ps(1) takes longer, the machine hangs.
_PS_SECONDS = 5.0


def children_by_parent(listing: str) -> dict[int, list[int]]:
    """Read `ps -o pid=,ppid=`: return the children of each parent."""
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
            """Return the children of a process; empty if ps(1) failed."""
            return self._children.get(pid, [])

else:
    # The launcher, and below it the cage's PID 1. Orphans of the command become children of PID 1
    # later than the command itself.
    LAUNCHERS = 2

    class ProcessTable:
        """The processes, read at each call."""

        def children(self, pid: int) -> list[int]:
            """Return the children of all threads of a process; empty if /proc lists none."""
            found: list[int] = []
            with suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    with suppress(OSError):
                        found += map(int, (thread / "children").read_text("ascii").split())
            return found
