"""Lets a listener, at the end of a session, still handle what its socket has already received.

The last act of a command may be a query that it sends before it exits. When the session ends, that
query may still be in the kernel's buffer. A serving loop that was cancelled at once would lose it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

LAST_SECONDS: Final = 1.0  # the end of the session does not wait longer for a log that hangs


class Ending:
    """Tells a serving loop that it has to end once nothing more waits at its socket."""

    def __init__(self) -> None:
        self.is_asked = False
        self._waiting = trio.CancelScope()

    def ask(self) -> None:
        """Ask the loop to end."""
        self.is_asked = True
        self._waiting.cancel()

    async def readable(self, sock: socket.socket) -> None:
        """Wait until `sock` is readable or the loop is asked to end. Raises OSError."""
        if not self.is_asked:
            with trio.CancelScope() as self._waiting:
                await trio.lowlevel.wait_readable(sock)


async def serve_to_the_end(serve: Callable[[Ending], Awaitable[None]]) -> None:
    """Run `serve` until cancelled. Then ask it to end, and cancel it after LAST_SECONDS.

    An error of `serve` is raised in a group.
    """
    ending = Ending()
    last = trio.CancelScope(shield=True)

    async def shielded() -> None:
        with last:
            await serve(ending)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shielded)
        try:
            await trio.sleep_forever()
        finally:
            last.deadline = trio.current_time() + LAST_SECONDS
            ending.ask()
