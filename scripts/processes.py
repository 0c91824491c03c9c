"""Processes for the demo and the benchmark: trees, ends, CPU time and peak memory."""

from __future__ import annotations

import os
import select
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name: the parent, and the CPU ticks of children that ended.
_PARENT, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 13, 14
_RESET_PEAK = "5"  # written to clear_refs: VmHWM starts again from what is resident now


def tree(pid: int) -> list[int]:
    """`pid` and every process below it; those of a PID namespace included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            parents[int(entry.name)] = int(fields[_PARENT])
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that the tree has used so far, its threads and reaped children included.

    It reads each process' CPU clock (nanoseconds). utime and stime count 10 ms, which is too coarse
    for a short run. A child is missing only while it is a zombie.
    """
    return sum(_cpu_clock(one) + _reaped_seconds(one) for one in tree(pid))


def own_cpu_seconds(pid: int) -> float:
    """CPU time of one process so far, with its threads, without its children."""
    return _cpu_clock(pid)


def _cpu_clock(pid: int) -> float:
    # The clock that clock_getcpuclockid(3) returns on Linux; Python does not wrap it.
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def _reaped_seconds(pid: int) -> float:
    fields = _stat(pid)
    if fields is None:
        return 0.0
    return (int(fields[_CHILDREN_USER]) + int(fields[_CHILDREN_SYSTEM])) / _TICKS_PER_SECOND


def reset_peak_memory(pid: int) -> None:
    """Forget the tree's peak so far."""
    for one in tree(pid):
        Path(f"/proc/{one}/clear_refs").write_text(_RESET_PEAK)


def peak_megabytes(pid: int) -> float:
    """The tree's peak resident memory since the start or the last reset, in MB of 10^6 bytes."""
    kibibytes = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                kibibytes += int(line.split()[1])
    return kibibytes * 1024 / 1e6


@contextmanager
def handles_of(pids: Sequence[int]) -> Iterator[list[int]]:
    """Yield pidfds of the living processes; unlike a pid, a pidfd never means a later process."""
    handles = []
    try:
        for pid in pids:
            try:
                handles.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
        yield handles
    finally:
        for handle in handles:
            os.close(handle)


def all_end_within(handles: Sequence[int], seconds: float) -> bool:
    """Wait until all processes have ended; False if one still lives after `seconds`."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    living = set(handles)
    while living:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            living.discard(handle)
    return True


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
