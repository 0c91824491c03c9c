"""Stop, continue and end all processes of a cage.

In a PID namespace, kill(-1) by its init reaches them all, and so it does in a signal scope
(linux/signal_scope.py). Elsewhere they are the descendants of this process, which is a subreaper:
orphans become its children. Rules: a growing tree is stopped before it is killed, because stopped
processes start no others; processes that continue each other are killed faster than they fork;
every other process is signalled once, so the time is linear in the size of the tree; what ends
leaves no zombie, because a tree that starts processes faster than a busy machine lets us reap them
would take every pid of the machine; a process that can't die (uninterruptible sleep, a dead file
system) is left behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Walks over a growing tree: each one stops the processes that it finds, and stopped processes still
# count against the limit of processes.
_MOST_WALKS = 1000
# If no child ends in this time, the rest can't die.
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.05


def end_descendants(*, scoped: bool = False) -> None:
    """Kill every process that descends from this one. Blocks while they die.

    `scoped`: kill(-1) by this process reaches its descendants alone. From now on the kernel reaps
    the children of this process.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with _running_first():
        _end_children(scoped=scoped)


def _end_children(*, scoped: bool) -> None:
    _collect()  # those that ended before
    patience = time.monotonic() + _PATIENCE_SECONDS
    known: list[int] = []
    while children := _own_children():
        if children != known:
            known, patience = children, time.monotonic() + _PATIENCE_SECONDS
        elif time.monotonic() > patience:
            return
        if scoped:
            _signal(-1, signal.SIGKILL)  # atomic in the kernel: no process can fork in between
        else:
            _stop_to_end()
            for pid in _descendants():
                _signal(pid, signal.SIGKILL)
            _kill_children()
        _await_end(children[0])


def _stop_to_end() -> None:
    """Stop the whole tree.

    A pid that is used again during the walks may be overlooked; the caller looks again.
    """
    seen: set[int] = set()
    for _ in range(_MOST_WALKS):
        pending = [pid for pid in _own_children() if pid not in seen]
        if not pending:
            return
        for pid in pending:
            _signal(pid, signal.SIGSTOP)
        while pending:
            pid = pending.pop()
            seen.add(pid)
            below = [child for child in _children(pid) if child not in seen]
            for child in below:
                _signal(child, signal.SIGSTOP)
            pending += below


def _kill_children() -> None:
    """Kill the children again and again, for as long as there are new ones.

    Processes that send SIGCONT to each other undo the stop. The orphans of killed processes are
    children of this one, and to read its own children is fast, so most are killed before they fork.
    """
    seen: set[int] = set()
    for _ in range(_MOST_WALKS):
        new = [pid for pid in _own_children() if pid not in seen]
        if not new:
            return
        for pid in new:
            _signal(pid, signal.SIGKILL)
        seen = {*new}


def stop_descendants() -> set[int]:
    """Stop every descendant of this process; return those that were running before."""
    seen: set[int] = set()
    stopped: set[int] = set()
    for _ in range(_MOST_WALKS):
        new = [pid for pid in _descendants() if pid not in seen]
        if not new:
            break
        for pid in new:
            if _is_running(pid):
                _signal(pid, signal.SIGSTOP)
                stopped.add(pid)
        seen.update(new)
    return stopped


class Freezer:
    """Stops all processes of a cage, and continues those that it has stopped."""

    def __init__(self, *, isolated: bool) -> None:
        self._isolated = isolated
        self._stopped: set[int] = set()

    def stop(self) -> None:
        """Stop every process of the cage; repeated calls are harmless."""
        if not self._isolated:
            self._stopped |= stop_descendants()
            return
        own = os.getpid()
        self._stopped |= {
            int(name)
            for name in os.listdir("/proc")
            if name.isdigit() and int(name) != own and _is_running(int(name))
        }
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGSTOP)  # atomic in the kernel: no process can fork in between

    def go_on(self) -> None:
        """Continue the processes that `stop` has stopped."""
        stopped, self._stopped = self._stopped, set()
        if stopped and not self._isolated:  # a pid may have been reused
            stopped &= {*_descendants()}
        for pid in stopped:
            _signal(pid, signal.SIGCONT)


def _descendants() -> list[int]:
    """Return every process below this one, parents first."""
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        children = _children(pending.pop())
        found += children
        pending += children
    return found


def _own_children() -> list[int]:
    """Return the children of this process, which has one thread; faster than `_children`."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process; empty if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file,
            ):
                found += map(int, file.read().split())
    return found


def _is_running(pid: int) -> bool:
    """Tell whether a process exists and is neither stopped nor a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "TtZX"
    except (OSError, IndexError):
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _collect() -> None:
    """Reap the zombies that there are among the children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if sys.platform == "linux":

    @contextlib.contextmanager
    def _running_first() -> Iterator[None]:
        """Run before other processes where that is allowed (root).

        A tree whose processes continue each other is not stopped. It has a thousand times our share
        of the processors then, and starts processes faster than we kill them.
        """
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def _await_end(pid: int) -> None:
        """Wait a moment for a child to end."""
        with contextlib.suppress(OSError):  # it has ended
            handle = os.pidfd_open(pid)
            try:
                select.select([handle], [], [], _LOOK_SECONDS)
            finally:
                os.close(handle)

else:

    @contextlib.contextmanager
    def _running_first() -> Iterator[None]:
        yield

    def _await_end(_pid: int) -> None:
        """Do nothing: only the Linux cage is ended as a tree."""
