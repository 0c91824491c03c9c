"""Lists the current processes of a cage: the descendants of its launcher.

It reads no other process of the machine. Rules of this file: the number of processes is the
child's to choose, so it is bounded; nothing here waits.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PROCESSES: Final = 4096  # far more than an ordinary cage may have
_BLOCK: Final = 4096
_MOST_DIGITS: Final = 24
_MOST_BYTES: Final = 64 * 1024  # numbers of the children of one thread


class CageProcesses:
    """The descendants of `launcher` without its own children, which are ours (the cage's PID 1)."""

    def __init__(self, launcher: int) -> None:
        self._launcher = launcher

    def newest_first(self) -> Iterator[int]:
        """Yield their pids level by level, the newest child of a parent first. Reads /proc lazily.
        Raises nothing."""
        pending = deque(_children(self._launcher))
        given = 0
        while pending and given < MAX_PROCESSES:
            for pid in reversed(_children(pending.popleft())):
                pending.append(pid)
                given += 1
                yield pid


def _children(pid: int) -> list[int]:
    """Return the children of every thread of a process, the oldest first."""
    found: list[int] = []
    with suppress(OSError):
        directory = f"/proc/{pid}/task"
        # One link for each thread, and two; most processes have one thread.
        threads = [str(pid)] if os.stat(directory).st_nlink <= 3 else os.listdir(directory)
        for thread in threads:
            with suppress(OSError):
                found += _children_of_thread(f"{directory}/{thread}/children")
    return found


def _children_of_thread(path: str) -> list[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while len(text) < _MOST_BYTES:
            more = os.read(descriptor, _BLOCK)
            text += more
            if len(more) < _BLOCK - _MOST_DIGITS:  # the kernel ends a block after a whole number
                break
    finally:
        os.close(descriptor)
    return [int(number) for number in text.split()]
