"""The child's side of the cage on macOS: Seatbelt, through nono-py. Not tested on a Mac.

Two processes. This one receives the plan, forks, and stays: it forwards signals, reports the
child's end, and kills the child's group when the child has ended or the supervisor's end of the
control socket closes (macOS has no PR_SET_PDEATHSIG). The other applies Seatbelt to itself, waits
for "go" and becomes the command. macOS has neither PID namespaces nor subreapers: a process that
leaves the group outlives the session, still inside Seatbelt but without a proxy to reach.

nono-py writes the Seatbelt profile: `(deny default)`, the granted paths, TCP to the proxy's port of
this machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from .import_freeze import freeze_imports
from .nono_py import load_library
from .steps import (
    StageError,
    fork_child,
    granted,
    set_limits,
    stage,
)
from .tempdir import remove_temporary

if TYPE_CHECKING:
    import socket
    from types import ModuleType

    from .cage_plan import CagePlan
    from .steps import ChildSide


def detach(kept: int) -> None:
    """Close what the caller's caller left open: the child gets the three standard streams only.

    Uses the list of open descriptors, because macOS may have no limit to count up to.
    """
    for name in os.listdir("/dev/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the listing's own descriptor, closed by now
                os.close(int(name))


def launch(control: socket.socket, plan: CagePlan, ignored: frozenset[int]) -> NoReturn:
    """Shut a child in as `plan` says and stay until it has ended; raises StageError before that."""
    with stage("sandbox library"):
        library = load_library(plan.library)
    freeze_imports()
    child = fork_child(
        control,
        {},
        lambda side: _become_child(side, plan, library, ignored),
        foreground=plan.foreground,
    )
    try:
        child.conduct(control, {})
    finally:
        _end_group(child.pid)
        if plan.temporary is not None:
            remove_temporary(plan.temporary)
    os._exit(0)


def _end_group(leader: int) -> None:
    """Kill the rest of the child's group.

    The group's number is the pid of the child, which may have been reaped just now. macOS assigns
    pids in turn, so no other process has it yet.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # only zombies: not permitted
        os.killpg(leader, signal.SIGKILL)


def _become_child(
    side: ChildSide, plan: CagePlan, library: ModuleType, ignored: frozenset[int]
) -> NoReturn:
    try:
        side.lead_group(ignored)
        with stage("limits"):
            set_limits(plan.limits, plan.core_limit)
        with stage("seatbelt"):
            _apply_seatbelt(library, plan)
        side.reporting.sendall(b"caged")
    except StageError as failed:
        side.refuse(failed)
    side.execute(plan)


def _apply_seatbelt(library: ModuleType, plan: CagePlan) -> None:
    """Confine this process to the plan's grants, and where it is isolated, to the proxy's port.

    `allow_localhost_port` also allows listening on every port: Seatbelt can't tell ports apart.
    """
    isolated = plan.isolation == "seatbelt"
    if not plan.landlock and not isolated:
        return
    capabilities = granted(library, plan.allowed)
    for path in plan.closed:
        capabilities.platform_rule(closing_rule(path))
    if isolated:
        capabilities.block_network()
        capabilities.allow_localhost_port(plan.port)
    library.apply(capabilities)


def closing_rule(path: str) -> str:
    """Return the rule that closes `path` and all paths below it, also inside a grant.

    nono-py puts such rules after the grants, and in Seatbelt the last matching rule decides.
    Raises ValueError for a path that a rule can't contain.
    """
    if not path.isprintable():
        raise ValueError(f"a path with control characters can't be closed: {path!r}")
    quoted = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'(deny file-read* file-write* (subpath "{quoted}"))'
