"""Retries of calls that would block: the oldest of each queue, at growing intervals.

A unix socket with a full backlog gives no wake-up, so calls must poll it. Rules: of all calls that
wait for the same socket only the oldest is tried; the number of tries a second does not grow with
the number of sockets; the number of calls is bounded. Pure: the caller passes the time.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

_Call = TypeVar("_Call")

MAX_WAITING: Final = 1024  # more than the threads of a build; each is a few hundred bytes
FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.1
# With many queues each is tried less often: 200 tries a second are 2 % of a core.
PAUSE_PER_QUEUE: Final = 0.005
_NOT_DUE: Final = math.inf


class _Queue(Generic[_Call]):
    def __init__(self) -> None:
        self.calls: deque[_Call] = deque()
        self.pause = FIRST_PAUSE
        self.due = _NOT_DUE


class Retries(Generic[_Call]):
    """Queues of waiting calls, one for each key. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, _Queue[_Call]] = {}
        self._waiting = 0

    def add(self, key: Hashable, call: _Call, now: float) -> bool:
        """Let a new call wait for `key`; return False if too many calls wait already."""
        if self._waiting >= MAX_WAITING:
            return False
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue()
            queue.due = now + queue.pause
        queue.calls.append(call)
        self._waiting += 1
        return True

    def next_due(self) -> float | None:
        """Return the time of the next try; None without waiting calls."""
        due = min((queue.due for queue in self._queues.values()), default=_NOT_DUE)
        return None if due == _NOT_DUE else due

    def take(self, now: float) -> tuple[Hashable, _Call] | None:
        """Take a due call. The caller must call `postpone` or `finish` for its key next."""
        for key, queue in self._queues.items():
            if queue.due <= now:
                queue.due = _NOT_DUE
                self._waiting -= 1
                return key, queue.calls.popleft()
        return None

    def postpone(self, key: Hashable, call: _Call, now: float) -> None:
        """Put the taken call back, before the others of its key."""
        queue = self._queues[key]
        queue.calls.appendleft(call)
        self._waiting += 1
        queue.pause = min(2 * queue.pause, LONGEST_PAUSE)
        queue.due = now + max(queue.pause, PAUSE_PER_QUEUE * len(self._queues))

    def finish(self, key: Hashable, now: float) -> None:
        """Drop the taken call; the next one of its key becomes due at once."""
        queue = self._queues[key]
        queue.pause, queue.due = FIRST_PAUSE, now
        if not queue.calls:
            del self._queues[key]
