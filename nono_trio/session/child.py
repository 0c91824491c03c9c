"""The child's life in the cage: started, stopped and continued with the terminal, ended.

Rules: a signal reaches the child's group once, whether it asks for the end or is the child's own;
when the grace after the first that asks is over, or a second one comes, the whole tree is killed;
how the child ended is the child's own word, even when we killed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from nono_trio.sandbox.cage import ChildEnded
from nono_trio.session.shutdown import Phase

if TYPE_CHECKING:
    from nono_trio.sandbox.cage import Cage
    from nono_trio.session.shutdown import Shutdown
    from nono_trio.session.terminal import Terminal


async def conduct_child(
    cage: Cage, shutdown: Shutdown, terminal: Terminal, *, lent: bool, grace_seconds: float
) -> ChildEnded:
    """Wait for the child's end, passing on what `shutdown` asks for and the terminal does.

    `lent`: the terminal was given to the child's group. `grace_seconds` from the first signal to
    the kill. If cancelled, the child lives on: its cage ends it.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_asked, cage, shutdown, grace_seconds)
        nursery.start_soon(_pass_on, cage, shutdown)
        ended = await _until_ended(cage, terminal, lent=lent)
        nursery.cancel_scope.cancel(reason="the child has ended")
    if lent:
        terminal.take_back()
    return ended


async def _end_when_asked(cage: Cage, shutdown: Shutdown, grace_seconds: float) -> None:
    await shutdown.reached(Phase.ENDING)
    with trio.move_on_after(grace_seconds):
        await cage.signal(shutdown.signal)
        await shutdown.reached(Phase.HURRYING)
    cage.kill()


async def _pass_on(cage: Cage, shutdown: Shutdown) -> None:
    while True:
        await cage.signal(await shutdown.next_for_command())


async def _until_ended(cage: Cage, terminal: Terminal, *, lent: bool) -> ChildEnded:
    while True:
        event = await cage.next_event()
        if isinstance(event, ChildEnded):
            return event
        if terminal.exists:
            await _stop_together(cage, terminal, lent=lent)


async def _stop_together(cage: Cage, terminal: Terminal, *, lent: bool) -> None:
    """Ctrl-Z: hand the terminal to the shell, stop, and go on together when the shell says so."""
    if lent:
        terminal.take_back()
    terminal.stop_with_child()
    if terminal.is_ours:  # `fg`; after `bg` the terminal is the shell's
        await cage.foreground()
    await cage.signal_continue()
