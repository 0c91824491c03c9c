"""Tasks that serve one client after another.

Starting and ending a task costs as much as all that we do for a denied request, so a task that has
nothing left to do rests and gets the next client. Rules of this file: resting tasks hold nothing
but themselves; they are few; `dismiss` ends them, and whoever comes to rest afterwards.
"""

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
    """Serves clients with `serve(client, visit)`, in tasks of the nursery that came with them."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._resting: list[_Rest] = []
        self._dismissed = False

    def give(self, client: Client, visit: ConnectionHandler, nursery: trio.Nursery) -> None:
        """Have `client` served soon, in `nursery` or by a task that rests."""
        if self._resting:
            self._resting.pop().end((client, visit))
        else:
            nursery.start_soon(self._work, (client, visit))

    def dismiss(self) -> None:
        """Let the resting tasks end; those that work end after their client."""
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
    """One task at rest, and what it is to do next."""

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
