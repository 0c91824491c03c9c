"""Checks of calls that name another process, for a cage that sees the host's processes.

A user may slow down all their own processes: by affinity, policy or priority. Landlock does not
restrict that, so a cage could starve its supervisor, which keeps the deadline. Only calls that name
a process of the cage pass. Rules: the check uses only the pid that the kernel took from a register,
not memory, so an allowed call can continue with the caller's own rights; no function waits for the
child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.sandbox.broker.seccomp_notify import process_of

if TYPE_CHECKING:
    from nono_trio.sandbox.broker.seccomp_notify import Notification

# The position of the argument that is a process or thread id.
ARGUMENTS: Final = {
    "sched_setparam": 0, "sched_setscheduler": 0, "sched_setattr": 0, "sched_setaffinity": 0,
    "setpriority": 1, "ioprio_set": 1,
}  # fmt: skip

# Builds nest processes by tens. Each generation takes some 20 microseconds to read.
MOST_GENERATIONS: Final = 256


def names_own_thread(notified: Notification, call: str) -> bool:
    """Tell whether the call names a thread of the caller's own process; nearly all do."""
    try:
        return process_of(_target(notified, call)) == process_of(notified.thread)
    except OSError:
        return False


def names_descendant(notified: Notification, call: str, launcher: int) -> bool:
    """Tell whether the call names a process below the cage's init, a child of `launcher`.

    Blocks for a few milliseconds at most: it walks up the process tree.
    """
    ancestor = _target(notified, call)
    for generation in range(MOST_GENERATIONS):
        try:
            ancestor = _parent(ancestor)
        except (OSError, ValueError, IndexError):
            return False
        if ancestor == launcher:
            return (
                generation > 0
            )  # the launcher's own child is the init, which the cage may not touch
        if ancestor <= 1:
            return False
    return False


def _target(notified: Notification, call: str) -> int:
    return notified.arguments[ARGUMENTS[call]] & 0xFFFFFFFF


def _parent(process: int) -> int:
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])
