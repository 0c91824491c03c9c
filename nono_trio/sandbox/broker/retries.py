"""Calls that can't be done yet and are tried again: the oldest of each queue, at growing intervals.

A unix socket whose backlog is full gives no wake-up, so it has to be tried again. Rules: of all
calls that wait for one thing only the oldest is tried; the number of tries a second stays the same
however many things are waited for; the number of calls is bounded. Pure: the caller has the clock.
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
    """Queues of waiting calls by what they wait for. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, _Queue[_Call]] = {}
        self._waiting = 0

    def add(self, key: Hashable, call: _Call, now: float) -> bool:
        """Let a new call wait for `key`; False when too many wait already."""
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
        """When the next call is to be tried; None when none is."""
        due = min((queue.due for queue in self._queues.values()), default=_NOT_DUE)
        return None if due == _NOT_DUE else due

    def take(self, now: float) -> tuple[Hashable, _Call] | None:
        """Take a call that is due. `postpone` or `finish` must follow for its key."""
        for key, queue in self._queues.items():
            if queue.due <= now:
                queue.due = _NOT_DUE
                self._waiting -= 1
                return key, queue.calls.popleft()
        return None

    def postpone(self, key: Hashable, call: _Call, now: float) -> None:
        """The call that was taken has to wait on, before the others of its key."""
        queue = self._queues[key]
        queue.calls.appendleft(call)
        self._waiting += 1
        queue.pause = min(2 * queue.pause, LONGEST_PAUSE)
        queue.due = now + max(queue.pause, PAUSE_PER_QUEUE * len(self._queues))

    def finish(self, key: Hashable, now: float) -> None:
        """The call that was taken is done: the next one of its key is tried at once."""
        queue = self._queues[key]
        queue.pause, queue.due = FIRST_PAUSE, now
        if not queue.calls:
            del self._queues[key]
