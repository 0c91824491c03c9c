"""Chooses the kernel mechanism for each limit on this machine, or says why none can carry it.

Rules: a limit that would not hold is refused, never accepted silently; one that holds for each
process instead of the whole cage is warned of. A cage that was given no limit on processes gets one
all the same, so that a fork bomb ends with the session; a machine that can't carry it (root without
a cgroup) runs without, and the cage's description says so.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from nono_trio.errors import UsageError
from nono_trio.posix.paths import ON_MACOS
from nono_trio.sandbox.cgroup import PROCESSES_OF_THE_CAGE, delegated, hands_down

if TYPE_CHECKING:
    from nono_trio.config.options import Limits
    from nono_trio.sandbox.cgroup import Delegated


class PlannedLimits(msgspec.Struct, frozen=True):
    """`per_process` by the name of the RLIMIT; `whole_cage` by cgroup file, with the parent."""

    per_process: dict[str, int] = msgspec.field(default_factory=dict)
    whole_cage: dict[str, str] = msgspec.field(default_factory=dict)
    cgroup_parent: Delegated | None = None
    warnings: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    cgroup_required: bool = True  # False: no option asked for it, and the run goes on without it


# More than a build or a browser starts at once, less than takes a machine's memory.
DEFAULT_PROCESSES = 4096
_NO_LIMIT = (
    "no limit on processes: for root the kernel has none but in a cgroup v2 with the pids"
    " controller"
)


def plan_limits(limits: Limits, *, own_users: bool) -> PlannedLimits:
    """Choose the mechanisms; raises UsageError for a limit that this machine can't enforce.

    `own_users`: the cage has a user namespace, in which the kernel counts apart (Linux 5.14).
    """
    planned = _plan_wanted(limits, own_users=own_users)
    if limits.max_processes is not None or ON_MACOS:
        return planned
    return _with_default(planned, own_users=own_users)


def _with_default(planned: PlannedLimits, *, own_users: bool) -> PlannedLimits:
    """Add the default limit on processes, by whatever this machine has for it."""
    per_process, whole_cage = dict(planned.per_process), dict(planned.whole_cage)
    parent = planned.cgroup_parent
    if os.geteuid() != 0:
        per_process["NPROC"] = _default_as_user(own_users=own_users)
        held = f"at most {per_process['NPROC']} processes of the user"
        if own_users and counts_by_namespace(os.uname().release):
            return replace(
                planned,
                per_process=per_process,
                enforcement=(f"at most {per_process['NPROC']} processes",),
            )
    else:
        held = _NO_LIMIT
    if parent is None:
        found = delegated({"pids"})
        parent = found if found is not None and not found.enable else None
    elif not hands_down(parent, "pids"):
        parent = None
    if parent is None:
        return replace(planned, per_process=per_process, enforcement=(held,))
    whole_cage["pids.max"] = str(DEFAULT_PROCESSES + PROCESSES_OF_THE_CAGE)
    return replace(
        planned,
        per_process=per_process,
        whole_cage=whole_cage,
        cgroup_parent=parent,
        cgroup_required=planned.cgroup_parent is not None,
        enforcement=(f"at most {DEFAULT_PROCESSES} processes",),
    )


def _default_as_user(*, own_users: bool) -> int:
    """The limit for an ordinary user; one that is lower already stays."""
    count = 0
    if not (own_users and counts_by_namespace(os.uname().release)):
        count = tasks_of(os.getuid(), Path("/proc"))
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    wanted = DEFAULT_PROCESSES + count
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)


def counts_by_namespace(release: str) -> bool:
    """Return whether this Linux counts a user's processes in each user namespace apart."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0]
    return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= (5, 14)


def tasks_of(user: int, proc: Path) -> int:
    """How many threads of a user there are, which is what the kernel counts."""
    count = 0
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, KeyError):
                count += _tasks_in((entry / "status").read_text("ascii", "replace"), user)
    return count


def _tasks_in(status: str, user: int) -> int:
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    return int(fields["Threads"]) if int(fields["Uid"].split()[0]) == user else 0


def _plan_wanted(limits: Limits, *, own_users: bool) -> PlannedLimits:
    per_process: dict[str, int] = {}
    whole_cage: dict[str, str] = {}
    warnings: list[str] = []
    if limits.max_open_files is not None:
        per_process["NOFILE"] = limits.max_open_files
    wanted = {
        *(["memory"] if limits.memory is not None else []),
        *(["pids"] if limits.max_processes is not None else []),
    }
    parent = delegated(wanted) if wanted else None
    if parent is not None:
        whole_cage |= {"memory.max": str(limits.memory)} if limits.memory is not None else {}
        if limits.max_processes is not None:
            whole_cage["pids.max"] = str(limits.max_processes + PROCESSES_OF_THE_CAGE)
        return PlannedLimits(per_process, whole_cage, parent)
    if limits.memory is not None:
        _require_address_space_limits()
        per_process["AS"] = limits.memory
        warnings.append(
            "--memory limits the address space of each process, not their sum: no cgroup v2 with"
            " the memory controller is delegated to us (a systemd user session does)"
        )
    if limits.max_processes is not None:
        per_process["NPROC"] = _processes_as_user(limits.max_processes)
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
