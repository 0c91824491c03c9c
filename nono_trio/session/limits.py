"""Which kernel mechanism carries each limit on this machine, or why none does.

Rules: a limit that would not hold is refused, never accepted silently; one that holds for each
process instead of the whole cage is warned of.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nono_trio.errors import UsageError
from nono_trio.sandbox.cgroup import PROCESSES_OF_THE_CAGE, delegated
from nono_trio.sandbox.places import ON_MACOS

if TYPE_CHECKING:
    from nono_trio.sandbox.cgroup import Delegated
    from nono_trio.session.options import Limits


@dataclass(frozen=True)
class PlannedLimits:
    """`per_process` by the name of the RLIMIT; `whole_cage` by cgroup file, with the parent."""

    per_process: dict[str, int] = field(default_factory=dict)
    whole_cage: dict[str, str] = field(default_factory=dict)
    cgroup_parent: Delegated | None = None
    warnings: tuple[str, ...] = ()


def plan_limits(limits: Limits, *, own_users: bool) -> PlannedLimits:
    """Choose the mechanisms; raises UsageError for a limit that this machine can't enforce.

    `own_users`: the cage has a user namespace, in which the kernel counts by itself (Linux 5.14).
    """
    per_process: dict[str, int] = {}
    whole_cage: dict[str, str] = {}
    warnings: list[str] = []
    if limits.open_files is not None:
        per_process["NOFILE"] = limits.open_files
    wanted = {
        *(["memory"] if limits.memory is not None else []),
        *(["pids"] if limits.processes is not None else []),
    }
    parent = delegated(wanted) if wanted else None
    if parent is not None:
        whole_cage |= {"memory.max": str(limits.memory)} if limits.memory is not None else {}
        if limits.processes is not None:
            whole_cage["pids.max"] = str(limits.processes + PROCESSES_OF_THE_CAGE)
        return PlannedLimits(per_process, whole_cage, parent)
    if limits.memory is not None:
        _require_address_space_limits()
        per_process["AS"] = limits.memory
        warnings.append(
            "--memory limits the address space of each process, not their sum: no cgroup v2 with"
            " the memory controller is delegated to us (a systemd user session does)"
        )
    if limits.processes is not None:
        per_process["NPROC"] = _processes_as_user(limits.processes)
        if not own_users:
            warnings.append(
                "--max-processes counts every process of yours, not the cage's: that needs"
                " namespace isolation, or a cgroup v2 with the pids controller delegated to us"
            )
    return PlannedLimits(per_process, whole_cage, None, tuple(warnings))


def _require_address_space_limits() -> None:
    if ON_MACOS:
        raise UsageError(
            "--memory is not enforced by macOS, which ignores limits of the address space",
            hint="leave it out",
        )


def _processes_as_user(processes: int) -> int:
    # Root of a user namespace of ours is the machine's root to the kernel, and exempt like it.
    if os.geteuid() == 0:
        raise UsageError(
            "--max-processes is not enforced by the kernel for root without a cgroup v2",
            hint="run as an ordinary user, or leave it out",
        )
    return processes
