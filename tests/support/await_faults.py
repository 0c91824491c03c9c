"""A trio instrument that cancels, or makes an await raise, at the n-th await of a session's tasks.

An await is counted when a task of the product has parked at it and can be aborted. Only there does
trio deliver a cancellation, so a fault loses nothing that was delivered already. A connection that
goes on in steps of a task counts as a task of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import trio

from nono_trio.steps import Stepped

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

    def before_run(self) -> None:
        """Have the waits of what goes on in steps counted, too."""
        self._step = Stepped.step

        def counted(one: Stepped, error: Exception | None = None) -> bool:
            return self._counted(one, error)

        Stepped.step = counted

    def _counted(self, one: Stepped, error: Exception | None) -> bool:
        waits = self._step(one, error)
        if not waits or not self._counts(STEPS) or not self._is_next():
            return waits
        self._note(STEPS, awaited(one.coroutine))
        if self.cancel is None:
            return self._step(one, Injected())
        self.cancel()
        return True

    def after_run(self) -> None:
        Stepped.step = self._step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task._abort_func is None or not self._counts(task.name) or not self._is_next():
            return
        frames = [frame.f_code.co_qualname for frame, _ in task.iter_await_frames()]
        self._note(task.name, frames)
        if self.cancel is not None:
            self.cancel()
        else:
            task._attempt_abort(_fail)

    def _is_next(self) -> bool:
        if not self.is_armed or self.has_fired:
            return False
        self._left -= 1
        return self._left < 0

    def _note(self, name: str, frames: list[str]) -> None:
        shown = [name for name in frames if name not in PLUMBING]
        self.place = f"{name}: {' '.join(shown[-4:])}"


STEPS = "nono_trio.steps"
PLUMBING = ("TaskTurns.wait", "Waker._sleep_as_task", "Waker.sleep", "Waker.sleep_while")


def awaited(body: Any) -> list[str]:
    """The functions that a coroutine waits in, the innermost last."""
    names = []
    while body is not None:
        kind = "cr" if hasattr(body, "cr_code") else "gi"  # a coroutine, or a generator
        code = getattr(body, f"{kind}_code", None)
        if code is None:
            break
        names.append(code.co_qualname)
        body = body.cr_await if kind == "cr" else body.gi_yieldfrom
    return names


def _fail() -> NoReturn:
    raise Injected
