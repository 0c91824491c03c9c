"""A trio instrument that cancels, or makes an await raise, at the n-th await of a session's tasks.

An await is counted when a task of the product has parked at it and can be aborted. Only there does
trio deliver a cancellation, so a fault loses nothing that was delivered already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Injected(Exception):
    """The error of an await."""


class AwaitFault(trio.abc.Instrument):
    """At await number `at` (from 0) calls `cancel`, or makes that await raise without it.

    Counted are tasks whose name `counts`; `place` is the task and its innermost function then.
    """

    def __init__(self, at: int, counts: Callable[[str], bool]) -> None:
        self._left = at
        self._counts = counts
        self.cancel: Callable[[], object] | None = None
        self.is_armed = False
        self.place = ""

    @property
    def has_fired(self) -> bool:
        return bool(self.place)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.is_armed or self.has_fired or task._abort_func is None:
            return
        if not self._counts(task.name):
            return
        self._left -= 1
        if self._left >= 0:
            return
        frames = [frame.f_code.co_qualname for frame, _ in task.iter_await_frames()]
        self.place = f"{task.name}: {' '.join(frames[-4:])}"
        if self.cancel is not None:
            self.cancel()
        else:
            task._attempt_abort(_fail)


def _fail() -> NoReturn:
    raise Injected
