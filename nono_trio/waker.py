"""The waits of a connection: one sleep at a time, ended by a wake, in steps as in a task.

Rules of this file:
- No wake is lost: one that comes before the sleep ends it at once.
- A coroutine that is still asleep when its steps end sleeps on as a task.
- What waits here by a bare `yield` is a generator, as in steps.py.
"""

from __future__ import annotations

from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

from trio.lowlevel import Abort, Task, current_task

from nono_trio.steps import WAIT, here

if TYPE_CHECKING:
    from collections.abc import Generator

    from nono_trio.steps import Look, Stepped


class Waker:
    """Puts one coroutine to sleep and wakes it. A wake before the sleep ends the next sleep at
    once."""

    __slots__ = ("_stepped", "_task", "_woken")

    def __init__(self) -> None:
        self._stepped: Stepped | None = None
        self._task: Task | None = None
        self._woken = False

    def wake(self) -> None:
        """Let the coroutine go on, now or at its next `sleep`."""
        one = self._stepped
        if one is not None:
            self._stepped = None
            queue = one.queue
            queue.due.append(one)
            if not queue.is_held:
                queue.rouse()
        elif self._task is None:
            self._woken = True
        else:
            task, self._task = self._task, None
            here.running.turns.wake(task)

    @coroutine
    def sleep(self) -> Generator[Any, Any, None]:
        """Wait for `wake`. No checkpoint if it came already; if cancelled, no wake is lost."""
        if not self._woken:
            one = self._stepped = here.running.one
            if one is None:
                yield from self._sleep_as_task()
            else:
                try:
                    yield WAIT
                finally:
                    was_woken, self._stepped = self._stepped is None, None
                if not was_woken:  # the steps have ended, and it is a task now
                    yield from self._sleep_as_task()
        self._woken = False  # also wakes since the first one: the caller tries all its transports

    @coroutine
    def sleep_while(self, look: Look) -> Generator[Any, Any, None]:
        """`sleep` again and again, until `look`, which is called after each, returns False. It must
        not wait. Raises what it raises.

        In steps only `look` is called at a wake, and the coroutine goes on at the end: a chain of
        ten coroutines that go on costs more than what is done for most wakes."""
        one = here.running.one
        if one is not None:
            if self._woken and not self._look_again(one, look):
                return
            self._stepped = one
            one.look = partial(self._look_again, one, look)
            try:
                yield WAIT
            finally:
                was_woken, self._stepped = self._stepped is None, None
                has_ended, one.look = one.look is None, None
            if has_ended:
                return
            if not was_woken:  # as in `sleep`
                yield from self._sleep_as_task()
            self._woken = False
            if not look():
                return
        while True:
            yield from self.sleep()
            if not look():
                return

    def _look_again(self, one: Stepped, look: Look) -> bool:
        """In a step: return whether the sleep goes on."""
        while True:
            self._woken = False  # as in `sleep`
            if not look():
                return False
            if not self._woken:
                self._stepped = one
                return True

    async def _sleep_as_task(self) -> None:
        task = self._task = current_task()
        await here.running.turns.wait(task, self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED
