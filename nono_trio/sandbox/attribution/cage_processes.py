"""Lists the current processes of a cage: the descendants of its launcher.

It reads no other process of the machine. Rules of this file: the child chooses how many processes
and threads there are, so a caller can stop between any two of them; nothing here waits.
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
        """Yield their pids level by level, the newest child of a parent first, and 0 before each
        look at a thread. Reads /proc lazily; raises nothing."""
        pending = deque([self._launcher])
        given = 0
        while pending and given < MAX_PROCESSES:
            parent = pending.popleft()
            children: list[int] = []
            for some in _children(parent):
                yield 0
                children += some
            pending.extend(reversed(children))
            if parent == self._launcher:
                continue
            for pid in reversed(children):
                given += 1
                yield pid


def _children(pid: int) -> Iterator[list[int]]:
    """Yield the children of each thread of a process, the oldest first."""
    with suppress(OSError):
        directory = f"/proc/{pid}/task"
        # One link for each thread, and two; most processes have one thread.
        if os.stat(directory).st_nlink <= 3:
            yield _children_of_thread(f"{directory}/{pid}/children")
            return
        with os.scandir(directory) as threads:
            for thread in threads:
                try:
                    yield _children_of_thread(f"{directory}/{thread.name}/children")
                except OSError:
                    yield []


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
