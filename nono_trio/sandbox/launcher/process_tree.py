"""The processes of a cage as one tree: stopped whole, continued, ended.

In a PID namespace the kernel has a word for all of them (kill with -1, by its init). Elsewhere they
are what descends from this process, a subreaper: what a process leaves behind when it ends comes
here. Rules: a tree that grows is stopped before it is killed, since what is stopped starts nothing;
every process is signalled and collected once, so that the end takes as long as the tree is large;
a process that does not die (in uninterruptible sleep, on a dead file system) is not waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

# Walks over a tree that goes on growing: each stops what it finds, and what is stopped keeps its
# place within the limit of processes.
_MOST_WALKS = 1000
_MOST_COLLECTED = 1000  # at a time: others are started meanwhile
# Without one death in this time, what is left can't die.
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
    """Stop the whole tree. The ended are collected meanwhile, as processes that each start the
    next and end leave thousands: the shorter the list, the sooner its living one is reached."""
    seen: set[int] = set()
    for _ in range(_MOST_WALKS):
        seen -= _collect()  # their numbers may come round again
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
    """Stop every process that descends from this one; return those that were stopped by it."""
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
    """Stops a cage whole and lets it go on: those that it has stopped, no others."""

    def __init__(self, *, isolated: bool) -> None:
        self._isolated = isolated
        self._stopped: set[int] = set()

    def stop(self) -> None:
        """Stop every process of the cage; again and again is as good as once."""
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
            os.kill(-1, signal.SIGSTOP)  # one step to the kernel: nobody starts another meanwhile

    def go_on(self) -> None:
        """Continue what `stop` has stopped and is still there."""
        stopped, self._stopped = self._stopped, set()
        if stopped and not self._isolated:  # a number may be another's by now
            stopped &= {*_descendants()}
        for pid in stopped:
            _signal(pid, signal.SIGCONT)


def _descendants() -> list[int]:
    """Every process below this one, parents first."""
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        children = _children(pending.pop())
        found += children
        pending += children
    return found


def _own_children() -> list[int]:
    """As `_children` of this process, which has one thread: quicker."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    """The children of every thread of a process; none once it has gone."""
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
    """Whether a process is there and neither stopped nor ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "TtZX"
    except (OSError, IndexError):
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _collect() -> set[int]:
    """Collect what has ended, without waiting; return their numbers."""
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
        """Only the Linux cage is ended as a tree."""
        return False
