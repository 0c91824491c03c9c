"""Stop, continue and end all processes of a cage.

In a PID namespace, kill(-1) by its init reaches them all. Elsewhere they are the descendants of
this process, which is a subreaper: orphans become its children. Rules: a growing tree is stopped
before it is killed, because stopped processes start no others; every process is signalled and
reaped once, so the time is linear in the size of the tree; a process that can't die
(uninterruptible sleep, a dead file system) is left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

# Walks over a growing tree: each one stops the processes that it finds, and stopped processes still
# count against the limit of processes.
_MOST_WALKS = 1000
_MOST_COLLECTED = 1000  # at a time: the tree may start others during the call
# If no process dies in this time, the rest can't die.
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.05


def end_descendants() -> None:
    """Kill every process that descends from this one and collect it. Blocks while they die."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # waited for below
    patience = time.monotonic() + _PATIENCE_SECONDS
    while _own_children():
        _stop_to_end()
        for pid in _descendants():
            _signal(pid, signal.SIGKILL)
        if _collect() or _await_one():
            patience = time.monotonic() + _PATIENCE_SECONDS
        elif time.monotonic() > patience:
            return


def _stop_to_end() -> None:
    """Stop the whole tree, and reap ended processes on the way.

    A chain of processes that each start the next one leaves thousands of zombies; a shorter list of
    children leads to the living process sooner.
    """
    seen: set[int] = set()
    for _ in range(_MOST_WALKS):
        seen -= _collect()  # their pids may be reused
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


def _collect() -> set[int]:
    """Reap ended children without waiting; return their pids."""
    ended: set[int] = set()
    with contextlib.suppress(ChildProcessError):
        while len(ended) < _MOST_COLLECTED:
            pid, _status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended.add(pid)
    return ended


if sys.platform == "linux":

    def _await_one() -> bool:
        """Wait a moment for a child to end; False if none did."""
        return signal.sigtimedwait([signal.SIGCHLD], _LOOK_SECONDS) is not None

else:

    def _await_one() -> bool:
        """Return False: only the Linux cage is ended as a tree."""
        return False
