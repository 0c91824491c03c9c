"""How many tasks go on at a time while many of them move large bodies.

trio lets every task that can go on do so before any other gets its next turn. A thousand uploads
with a millisecond of work each would then keep the writer of the log, and all else, waiting for a
second. So in such a crowd only as many tasks go on at once as take about `seconds` together, judged
by what the last ones took. The others wait, in the order in which they were woken.

Rules of this file:
- A task that moves much says so by `join`, and counts until it has ended its work (`leave`).
  steps.py calls both (`move_much`, `go_on`).
- Up to FEW such tasks nothing waits and nothing is timed, so other tasks cost what they did.
- In a crowd all tasks of steps.py wait for their turns, also those that move little. The writer's
  task and the drivers never do.
- A driver (`StepQueue.run`) begins the turns. Once the last one ends, all that wait go on.
- A task that was woken and waits for its turn gets it soon. If it is cancelled, it meets that at
  its next wait, as if it had gone on at once.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Callable

FEW: Final = 16  # tasks with bodies, each of which moves for 0.3 ms before it takes its turn
MOST: Final = 64  # tasks that go on at once in a crowd, however short their steps are
# The weight of a step in the typical time of one. Other programs may have used the CPU during a
# long step; a short step may be of a task that found nothing to move.
_LONGER, _SHORTER = 1 / 4, 1 / 64


class TaskTurns:
    """The turns of the tasks of one event loop. Without a driver, tasks go on at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._drivers: list[Callable[[], None]] = []
        self._moving: set[Task] = set()
        self._is_crowd = False
        self.waiting: dict[Task, None] = {}
        """The tasks that were woken and wait for their turn."""
        self._left = FEW  # as many may go on in this turn
        self._typical = seconds / FEW  # what a step takes, in seconds
        self._stepping: Task | None = None
        self._began = 0.0

    def drive(self, rouse: Callable[[], None]) -> None:
        """Have `rouse` called when tasks begin to wait; `begin` must be called soon after that, and
        once again as long as some wait."""
        self._drivers.append(rouse)

    def stop_driving(self, rouse: Callable[[], None]) -> None:
        """Undo `drive`."""
        self._drivers.remove(rouse)
        self._count()
        if self._drivers:
            self._drivers[-1]()
            return
        for task in self.waiting:
            reschedule(task)
        self.waiting.clear()

    def begin(self) -> None:
        """Let the next tasks go on: a turn begins."""
        if not self._is_crowd and not self.waiting:
            return
        self._left = min(MOST, max(1, int(self._seconds / self._typical)))
        for task in list(islice(self.waiting, self._left)):
            del self.waiting[task]
            self._left -= 1
            reschedule(task)

    async def wait(self, task: Task, forget: Callable[[object], Abort]) -> None:
        """Have the running task wait for `wake`; `forget` is called if it was not woken, but
        cancelled."""
        self.step_ends(task)
        await wait_task_rescheduled(partial(self._forget_wake, task, forget))
        self.step_begins(task)

    def wake(self, task: Task) -> None:
        """Let a task that is in `wait` go on, in this turn or in a later one. It must not be woken
        again before."""
        if self._must_wait():
            self._wait(task)
        else:
            reschedule(task)

    async def enter(self) -> None:
        """Wait for the first turn of a task that has just begun. Nothing cancels this wait."""
        task = current_task()
        if self._must_wait():
            self._wait(task)
            await wait_task_rescheduled(_go_on_soon)
        self.step_begins(task)

    async def take(self) -> None:
        """Let the other tasks go on first. A checkpoint."""
        task = current_task()
        self.step_ends(task)
        if self._must_wait():
            await trio.lowlevel.checkpoint_if_cancelled()
            self._wait(task)
            await wait_task_rescheduled(partial(self._stop_waiting, task))
        else:
            await trio.lowlevel.checkpoint()
        self.step_begins(task)

    def join(self) -> None:
        """Note that the running task moves much."""
        self._moving.add(current_task())
        self._count()

    def leave(self) -> None:
        """Note that the running task has ended its work."""
        self._moving.discard(current_task())
        self._count()

    def _count(self) -> None:
        was_crowd = self._is_crowd
        self._is_crowd = bool(self._drivers) and len(self._moving) > FEW
        if self._is_crowd and not was_crowd:
            self._left = FEW

    def _must_wait(self) -> bool:
        """Return whether one more task must wait for a later turn; if not, count it in."""
        if not self._is_crowd:
            return False
        self._left -= 1
        return self._left < 0

    def _wait(self, task: Task) -> None:
        self.waiting[task] = None
        self._drivers[-1]()

    def step_begins(self, task: Task) -> None:
        """Note that a task goes on."""
        if self._is_crowd:
            self._stepping = task
            self._began = perf_counter()

    def step_ends(self, task: Task) -> None:
        """Note that a task waits. The time of its step counts if its beginning was noted."""
        if task is self._stepping:
            took = min(perf_counter() - self._began, self._seconds)
            weight = _LONGER if took > self._typical else _SHORTER
            self._typical += (took - self._typical) * weight
        self._stepping = None

    def _stop_waiting(self, task: Task, _: object) -> Abort:
        del self.waiting[task]
        return Abort.SUCCEEDED

    def _forget_wake(self, task: Task, forget: Callable[[object], Abort], reason: object) -> Abort:
        """As trio's `abort_func`. `forget` is called if the task was not woken yet."""
        return Abort.FAILED if task in self.waiting else forget(reason)


def _go_on_soon(_: object) -> Abort:
    return Abort.FAILED
