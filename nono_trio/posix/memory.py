"""The memory that a cage can have: the machine's, or the limit of our cgroups."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
# The files of version 2 and of version 1; in a container the root has the container's limit.
_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")


def memory_bytes(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Return the bytes of memory that all our processes together can have."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for directory in _directories(cgroups, own):
        for name in _LIMITS:
            with contextlib.suppress(OSError, ValueError):  # "max", or no such controller
                limits.append(int((directory / name).read_text("ascii")))
    return min(limits)


def _directories(cgroups: Path, own: Path) -> list[Path]:
    """Return our cgroup v2 and all its parents."""
    path = ""
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            if line.startswith("0::"):
                path = line[3:].strip("/")
    here = cgroups / path
    return [one for one in (here, *here.parents) if one.is_relative_to(cgroups)]
