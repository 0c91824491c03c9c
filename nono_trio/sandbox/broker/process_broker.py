"""Calls of a cage that name another process, judged where it sees the host's processes.

A user may take the processor from each of their own processes: by affinity, by policy, by priority.
Landlock has no say in it, so a cage could starve its supervisor, which keeps the deadline. Here:
what belongs to the cage passes, nothing else does. Rules: all that is judged is the number that the
kernel itself took from a register, never memory, so a call that passes goes on by itself, with the
caller's own rights; nothing here waits for the child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.sandbox.broker.seccomp_notify import process_of

if TYPE_CHECKING:
    from nono_trio.sandbox.broker.seccomp_notify import Notification

# Which argument is the number of a process or thread.
ARGUMENTS: Final = {
    "sched_setparam": 0, "sched_setscheduler": 0, "sched_setattr": 0, "sched_setaffinity": 0,
    "setpriority": 1, "ioprio_set": 1,
}  # fmt: skip

# A child of a child of a child: builds nest by tens. Each takes some 20 microseconds to look at.
MOST_GENERATIONS: Final = 256


def names_own_thread(notified: Notification, call: str) -> bool:
    """Whether the call is about a thread of the caller's own process: nearly all of them are."""
    try:
        return process_of(_target(notified, call)) == process_of(notified.thread)
    except OSError:
        return False


def names_descendant(notified: Notification, call: str, launcher: int) -> bool:
    """Whether the call is about a process below the cage's init, which is a child of `launcher`.

    Blocking for at most some milliseconds: it walks up the process tree.
    """
    ancestor = _target(notified, call)
    for generation in range(MOST_GENERATIONS):
        try:
            ancestor = _parent(ancestor)
        except (OSError, ValueError, IndexError):
            return False
        if ancestor == launcher:
            return generation > 0  # its own child is the init, which is the supervisor's
        if ancestor <= 1:
            return False
    return False


def _target(notified: Notification, call: str) -> int:
    return notified.arguments[ARGUMENTS[call]] & 0xFFFFFFFF


def _parent(process: int) -> int:
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])
