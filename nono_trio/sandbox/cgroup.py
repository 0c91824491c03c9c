"""Limits on the whole cage, where this machine delegates a cgroup v2 to us.

A limit of the kernel's other kind (setrlimit) counts one process, and for root not even that; only
a cgroup counts the tree. Rules: the cgroup is a leaf of our own, made before the launcher is told
anything, so that every process of the cage is born inside it; it is killed and removed with the
session; what a killed supervisor left is removed by the next; where nothing is delegated the
caller says so instead of pretending.

The kernel keeps processes out of a cgroup that hands controllers down ("no internal processes").
Alone in a delegated cgroup (a service with Delegate=yes, a container's entry point) we move to a
leaf of our own first; other processes beside us are not ours to move.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.errors import CageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")

_PREFIX = "nono-trio-"
_SUPERVISOR = "supervisor"  # follows the prefix, where a leaf of the cage has the pid
# A killed tree is gone within milliseconds; a process in uninterruptible sleep must not hold the
# end of the run: its cgroup stays behind, and the next run removes it.
_EMPTY_SECONDS = 2.0
# The launcher, which waits, and PID 1 of the cage: not the command's.
PROCESSES_OF_THE_CAGE = 2


@dataclass(frozen=True)
class Delegated:
    """A cgroup in which we may make leaves; `enable`: the controllers to hand down first."""

    path: Path
    enable: frozenset[str] = frozenset()


def delegated(controllers: set[str], mounts: Path = _MOUNTS, own: Path = _OWN) -> Delegated | None:
    """Return the nearest cgroup, ours or above, in which we may make a leaf with `controllers`.

    None where there is no cgroup v2, or none of it was delegated to us. Changes nothing.
    """
    root = _mount_point(mounts)
    path = _own_path(own)
    if root is None or path is None or ".." in path.split("/"):  # outside of what is mounted
        return None
    here = root / path.lstrip("/")
    for directory in (here, *here.parents):
        if not directory.is_relative_to(root):
            break
        if _may_make_leaf(directory) and controllers <= _words(
            directory / "cgroup.subtree_control"
        ):
            return Delegated(directory)
    missing = controllers - _words(here / "cgroup.subtree_control")
    if _may_make_leaf(here) and missing <= _words(here / "cgroup.controllers") and _alone_in(here):
        return Delegated(here, frozenset(missing))
    return None


def hands_down(parent: Delegated, controller: str) -> bool:
    """Whether a leaf there has `controller`, once what is to be enabled is."""
    return controller in parent.enable | _words(parent.path / "cgroup.subtree_control")


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


def _may_make_leaf(directory: Path) -> bool:
    names = ("", "cgroup.procs", "cgroup.subtree_control")
    return all(os.access(directory / name, os.W_OK) for name in names)


def _alone_in(directory: Path) -> bool:
    """Whether nobody's processes keep `directory` from handing controllers down.

    The root of the hierarchy, which alone has no type, is excepted from that rule.
    """
    if not (directory / "cgroup.type").exists():
        return True
    return _words(directory / "cgroup.procs") == {str(os.getpid())}


def _words(file: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return set(file.read_text().split())
    return set()


def _hand_down(parent: Delegated) -> None:
    """Enable the controllers that the leaf needs, moving ourselves out of the way.

    They stay enabled and we stay there: taking a controller back would lift the limits of every
    other leaf, and what was delegated to us ends with us.
    """
    if not parent.enable:
        return
    if (parent.path / "cgroup.type").exists():
        aside = parent.path / f"{_PREFIX}{_SUPERVISOR}"
        aside.mkdir(exist_ok=True)
        (aside / "cgroup.procs").write_text(str(os.getpid()))
    wanted = " ".join(f"+{name}" for name in sorted(parent.enable))
    (parent.path / "cgroup.subtree_control").write_text(wanted)


def _remove_left_behind(parent: Path) -> None:
    """Remove the leaves of supervisors that were killed; the kernel refuses one that is in use."""
    for leaf in parent.glob(f"{_PREFIX}*"):
        pid = re.fullmatch(rf"{_PREFIX}(\d+)", leaf.name)
        if pid is not None and not Path(f"/proc/{pid[1]}").exists():
            with contextlib.suppress(OSError):
                leaf.rmdir()


class Cgroup:
    """A leaf with limits; `add` the launcher before it forks, `close` it with the session."""

    def __init__(self, parent: Delegated, limits: Mapping[str, str]) -> None:
        """Make the leaf; raises OSError with nothing left behind."""
        _hand_down(parent)
        _remove_left_behind(parent.path)
        self.path = parent.path / f"{_PREFIX}{os.getpid()}"
        with contextlib.suppress(OSError):  # of a process that had our pid and was killed
            self.path.rmdir()
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
        """Move a process in; what it starts from now on is born there. Raises CageFailed."""
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise CageFailed(f"the cage can't be put under its limits: {error}") from error

    def out_of_memory(self) -> bool:
        """Whether the kernel killed the cage for its memory."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def close(self) -> None:
        """Kill what is left and remove the leaf; a leaf that is still busy stays behind.

        Blocks for as long as the killed take to die, two seconds at most.
        """
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
            self._await_empty()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _await_empty(self) -> None:
        """Wait for the kernel's word: cgroup.events is readable anew with every change."""
        give_up = time.monotonic() + _EMPTY_SECONDS
        with (self.path / "cgroup.events").open(encoding="ascii") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while "populated 1" in events.read() and (left := give_up - time.monotonic()) > 0:
                poll.poll(left * 1000)
                events.seek(0)
