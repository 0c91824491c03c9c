"""Tasks that serve one client after another, because a task costs as much as a denied request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from nono_trio.proxy.connection_handler import ConnectionHandler
    from nono_trio.proxy.transport.client import Client

    Serve: TypeAlias = Callable[[Client, ConnectionHandler], Awaitable[None]]

MAX_RESTING: Final = 128  # tasks of about 4 KiB; more than are ever between two clients at once


class TaskPool:
    """Tasks that serve one client after another, by `serve(client, handler)`.

    Starting and ending a task costs as much as everything that is done for a denied request, so a
    task without a client rests and gets the next one. Resting tasks hold no other object, there
    are at most MAX_RESTING, and `dismiss` ends them, also those that come to rest later.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._resting: list[_Rest] = []
        self._dismissed = False

    def give(self, client: Client, handler: ConnectionHandler, nursery: trio.Nursery) -> None:
        """Have `client` served soon, by a resting task or by a new one in `nursery`."""
        if self._resting:
            self._resting.pop().end((client, handler))
        else:
            nursery.start_soon(self._work, (client, handler))

    def dismiss(self) -> None:
        """End the resting tasks; a working task ends after its client."""
        self._dismissed = True
        while self._resting:
            self._resting.pop().end(None)

    async def _work(self, assignment: tuple[Client, ConnectionHandler] | None) -> None:
        while assignment is not None:
            await self._serve(*assignment)
            if self._dismissed or len(self._resting) >= MAX_RESTING:
                return
            rest = _Rest(self._resting)
            self._resting.append(rest)
            assignment = await rest.wait()


class _Rest:
    """One resting task, and its next client."""

    __slots__ = ("_assignment", "_resting", "_task")

    def __init__(self, resting: list[_Rest]) -> None:
        self._resting = resting
        self._assignment: tuple[Client, ConnectionHandler] | None = None
        self._task: Task = current_task()

    def end(self, assignment: tuple[Client, ConnectionHandler] | None) -> None:
        self._assignment = assignment
        reschedule(self._task)

    async def wait(self) -> tuple[Client, ConnectionHandler] | None:
        await wait_task_rescheduled(self._abort)
        return self._assignment

    def _abort(self, _: object) -> Abort:
        self._resting.remove(self)
        return Abort.SUCCEEDED
