"""Limits on the whole cage, on a machine that delegates a cgroup v2 to us.

setrlimit limits single processes, and some limits do not apply to root; only a cgroup limits the
whole tree. Rules: the cgroup is a leaf of our own, made before the launcher gets its plan, so every
process of the cage starts inside it; it is killed and removed with the session; the next session
removes the leaves of killed supervisors; without delegation the caller reports that the limit is
missing.

A cgroup that enables controllers for its children can't hold processes ("no internal processes").
If we are alone in a delegated cgroup (a service with Delegate=yes, a container's entry point) we
move to a leaf first; other processes are not moved.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nono_trio.errors import CageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")

_PREFIX = "nono-trio-"
_SUPERVISOR = "supervisor"  # after the prefix; a leaf of a cage has the pid there
# A killed tree ends within milliseconds. A process in uninterruptible sleep must not delay the end
# of the run: its cgroup stays, and the next run removes it.
_EMPTY_SECONDS = 2.0
# The launcher and PID 1 of the cage, which are not the command's processes.
PROCESSES_OF_THE_CAGE = 2


class Delegated(msgspec.Struct, frozen=True):
    """A cgroup in which we may make leaves; `enable`: the controllers to enable first."""

    path: Path
    enable: frozenset[str] = frozenset()


def delegated(controllers: set[str], mounts: Path = _MOUNTS, own: Path = _OWN) -> Delegated | None:
    """Return the nearest cgroup, ours or above, in which we may make a leaf with `controllers`.

    None without cgroup v2 or without delegation. Makes no changes.
    """
    root = _mount_point(mounts)
    path = _own_path(own)
    if root is None or path is None or ".." in path.split("/"):  # outside of the mounted hierarchy
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
    """Tell whether a leaf in `parent` will have `controller`."""
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
    """Tell whether `directory` may enable controllers: it holds no process but this one.

    The root of the hierarchy, the only cgroup without a type, may always do so.
    """
    if not (directory / "cgroup.type").exists():
        return True
    return _words(directory / "cgroup.procs") == {str(os.getpid())}


def _words(file: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return set(file.read_text().split())
    return set()


def _hand_down(parent: Delegated) -> None:
    """Enable the controllers that the leaf needs, after moving this process to a leaf.

    Both last: disabling a controller would lift the limits of all other leaves, and the delegated
    cgroup ends with us.
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
    """Remove the leaves of killed supervisors; the kernel keeps a leaf that is in use."""
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
        with contextlib.suppress(OSError):  # of a killed process that had our pid
            self.path.rmdir()
        self.path.mkdir()
        try:
            for key, value in limits.items():
                (self.path / key).write_text(value)
        except OSError:
            self.path.rmdir()
            raise
        # Without swap accounting these files are missing; the limit itself still holds.
        for key, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with contextlib.suppress(OSError):
                if "memory.max" in limits:
                    (self.path / key).write_text(value)

    def add(self, pid: int) -> None:
        """Move a process into the leaf; its future children start there. Raises CageFailed."""
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise CageFailed(f"the cage can't be put under its limits: {error}") from error

    def out_of_memory(self) -> bool:
        """Tell whether the kernel killed a process of the cage for lack of memory."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def close(self) -> None:
        """Kill the remaining processes and remove the leaf; a busy leaf stays.

        Blocks until the processes have ended, two seconds at most.
        """
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
            self._await_empty()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _await_empty(self) -> None:
        """Wait until the leaf is empty: cgroup.events signals every change."""
        give_up = time.monotonic() + _EMPTY_SECONDS
        with (self.path / "cgroup.events").open(encoding="ascii") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while "populated 1" in events.read() and (left := give_up - time.monotonic()) > 0:
                poll.poll(left * 1000)
                events.seek(0)
