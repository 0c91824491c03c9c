"""Tasks that serve one client after another, because a task costs as much as a denied request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from nono_trio.steps import go_on

if TYPE_CHECKING:
    import trio

    from nono_trio.steps import Body

MAX_RESTING: Final = 128  # tasks of about 4 KiB; more than are ever between two clients at once


class TaskPool:
    """Tasks that serve one client after another. A client is a coroutine, which may have begun.

    Starting and ending a task costs as much as everything that is done for a denied request, so a
    task without a client rests and gets the next one. Resting tasks hold no other object, there
    are at most MAX_RESTING, and `dismiss` ends them, also those that come to rest later.
    """

    def __init__(self) -> None:
        self._resting: list[_Rest] = []
        self._dismissed = False

    def give(self, body: Body, nursery: trio.Nursery) -> None:
        """Have a client served soon, by a resting task or by a new one in `nursery`."""
        if self._resting:
            self._resting.pop().end(body)
        else:
            nursery.start_soon(self._work, body)

    def dismiss(self) -> None:
        """End the resting tasks; a working task ends after its client."""
        self._dismissed = True
        while self._resting:
            self._resting.pop().end(None)

    async def _work(self, body: Body | None) -> None:
        while body is not None:
            await go_on(body)
            body = None
            if self._dismissed or len(self._resting) >= MAX_RESTING:
                return
            rest = _Rest(self._resting)
            self._resting.append(rest)
            body = await rest.wait()


class _Rest:
    """One resting task, and its next client."""

    __slots__ = ("_body", "_resting", "_task")

    def __init__(self, resting: list[_Rest]) -> None:
        self._resting = resting
        self._body: Body | None = None
        self._task: Task = current_task()

    def end(self, body: Body | None) -> None:
        self._body = body
        reschedule(self._task)

    async def wait(self) -> Body | None:
        await wait_task_rescheduled(self._abort)
        body, self._body = self._body, None
        return body

    def _abort(self, _: object) -> Abort:
        self._resting.remove(self)
        return Abort.SUCCEEDED
