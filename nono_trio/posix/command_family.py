"""Ends a command of ours with all that it has started, also what left its group of processes.

A command may start a process in a session of its own (setsid), which no signal to the group
reaches. It is found among the descendants of the command, or by a variable of its environment: all
that the command starts inherit it, also what has lost its parent.

Rules of this file:
- The command must be a child that is not reaped yet, and the leader of a group.
- Each process is checked again when it is held by a descriptor, so no other process is ended. macOS
  has no such descriptors; there a pid that is reused within a moment would be.
- Only the environment of a process is read that is confined as this one and has the same user. A
  caged command, or another user, could have a page there for which the reader waits for ever.
- What has lost its parent and has another environment too is not found. On macOS only descendants
  are.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from nono_trio.posix.process_table import ProcessTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VARIABLE: Final = "NONO_TRIO_COMMAND"
_MOST: Final = 1000  # processes of one search; a command that asks for a secret has some
_ROUNDS: Final = 3  # what was started during a search is found by the next
_PROC: Final = "/proc"


def with_mark(environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return an environment with a variable of its own, and the value of that."""
    mark = secrets.token_hex(16)
    return {**environment, VARIABLE: mark}, mark


def kill_family(pid: int, mark: str) -> None:
    """Kill a command's group, its descendants, and all processes with its mark. Blocks for some
    milliseconds; nothing is waited for."""
    table = ProcessTable()
    below = [*_descendants(table, pid)]
    try:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        for one in below:
            one.kill()
    finally:
        for one in below:
            one.close()
    for _ in range(_ROUNDS):
        if not _kill_marked(f"{VARIABLE}={mark}".encode()):
            return


class _Process:
    """One process, held by a descriptor where the system has such. Raises OSError without it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = -1
        if sys.platform == "linux":
            self._descriptor = os.pidfd_open(pid)

    def kill(self) -> bool:
        """Kill it; return False if it has ended."""
        try:
            if sys.platform == "linux":
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let it go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _descendants(table: ProcessTable, pid: int) -> Iterator[_Process]:
    """Yield the processes below one, nearest first."""
    waiting, count = deque([pid]), 0
    while waiting and count < _MOST:
        parent = waiting.popleft()
        for child in table.children(parent):
            found = _held(child, partial(_is_child, table, child, parent))
            if found is not None:
                yield found
                waiting.append(child)
                count += 1


def _is_child(table: ProcessTable, pid: int, parent: int) -> bool:
    return pid in table.children(parent)


def _kill_marked(entry: bytes) -> int:
    """Kill the processes whose environment has an entry; return how many."""
    killed = 0
    ours = _confinement("self")
    names: list[str] = []
    with suppress(OSError):
        names = [one for one in os.listdir(_PROC) if one.isdigit()]
    for name in names:
        if killed >= _MOST or _confinement(name) != ours or not _has(name, entry):
            continue
        found = _held(int(name), partial(_has, name, entry))
        if found is not None:
            killed += found.kill()
            found.close()
    return killed


def _confinement(pid: str) -> list[bytes]:
    """Return the lines that say how the kernel confines a process, and whose it is."""
    lines = _content(pid, "status").splitlines()
    return [one for one in lines if one.startswith((b"Uid:", b"NoNewPrivs:", b"Seccomp"))]


def _has(pid: str, entry: bytes) -> bool:
    return entry in _content(pid, "environ").split(b"\0")


def _content(pid: str, name: str) -> bytes:
    try:
        with open(f"{_PROC}/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:  # it has ended, or is another user's
        return b""


def _held(pid: int, is_meant: Callable[[], bool]) -> _Process | None:
    """Hold a process that is still the one that is meant."""
    try:
        found = _Process(pid)
    except OSError:
        return None
    if is_meant():
        return found
    found.close()
    return None
