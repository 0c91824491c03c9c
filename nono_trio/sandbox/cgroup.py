"""Limits on the whole cage, where this machine delegates a cgroup v2 to us.

A limit of the kernel's other kind (setrlimit) counts one process, and for root not even that; only
a cgroup counts the tree. Rules: the cgroup is a leaf of our own, made before the launcher is told
anything, so that every process of the cage is born inside it; it is killed and removed with the
session; where nothing is delegated the caller says so instead of pretending.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")


def delegated(controllers: set[str], mounts: Path = _MOUNTS, own: Path = _OWN) -> Path | None:
    """Return the nearest cgroup above us in which we may make a leaf with `controllers`.

    None where there is no cgroup v2, or none of it was delegated to us.
    """
    root = _mount_point(mounts)
    path = _own_path(own)
    if root is None or path is None:
        return None
    here = root / path.lstrip("/")
    for directory in (here, *here.parents):
        if not directory.is_relative_to(root):
            return None
        if _may_make_leaf(directory, controllers):
            return directory
    return None


def _mount_point(mounts: Path) -> Path | None:
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return Path(before.split()[4])
    return None


def _own_path(own: Path) -> str | None:
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            if line.startswith("0::"):
                return line[3:]
    return None


def _may_make_leaf(directory: Path, controllers: set[str]) -> bool:
    try:
        enabled = set((directory / "cgroup.subtree_control").read_text().split())
    except OSError:
        return False
    writable = os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK)
    return writable and controllers <= enabled


class Cgroup:
    """A leaf with limits; `add` the launcher before it forks, `close` it with the session."""

    def __init__(self, parent: Path, name: str, limits: Mapping[str, str]) -> None:
        """Make the leaf; raises OSError with nothing left behind."""
        self.path = parent / name
        self.path.mkdir()
        try:
            for key, value in limits.items():
                (self.path / key).write_text(value)
        except OSError:
            self.path.rmdir()
            raise
        # Without swap accounting these are missing; the limit itself holds all the same.
        for key, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with contextlib.suppress(OSError):
                if "memory.max" in limits:
                    (self.path / key).write_text(value)

    def add(self, pid: int) -> None:
        """Move a process in; what it starts from now on is born there."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel killed the cage for its memory."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def close(self) -> None:
        """Kill what is left and remove the leaf; a leaf that is still busy stays behind."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
        with contextlib.suppress(OSError):
            self.path.rmdir()
