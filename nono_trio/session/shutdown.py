"""What the user's signals mean: the first asks the session to end, the second to hurry.

The receiver is the outermost lifetime of a session: it stays open until the log is sealed, so a
second Ctrl-C shortens what is being waited for and never cuts the seal.
"""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING

from trio_util import AsyncValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# SIGQUIT too: by default it would dump our memory into the working directory.
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def asking_signals() -> list[signal.Signals]:
    """Return the signals that ask a session to end: not those that our caller ignores (nohup)."""
    return [
        number
        for number in _ASKING
        if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]


class Phase(enum.IntEnum):
    """How far a session has been asked to end."""

    RUNNING = 0
    ENDING = 1
    HURRYING = 2


class Shutdown:
    """The phase of a session; it only ever moves forward."""

    def __init__(self) -> None:
        self._phase: AsyncValue[Phase] = AsyncValue(Phase.RUNNING)
        self.signal = int(signal.SIGTERM)  # what the child is told; the first signal that came

    async def watch(self, signals: AsyncIterator[int]) -> None:
        """Move one phase on with each signal, for as long as signals come."""
        async for number in signals:
            self.advance(number)

    def advance(self, number: int) -> None:
        """Ask to end with signal `number`; asked again: hurry."""
        if self._phase.value is Phase.RUNNING:
            self.signal = number
            self._phase.value = Phase.ENDING
        else:
            self._phase.value = Phase.HURRYING

    async def reached(self, phase: Phase) -> None:
        """Wait until the session is asked to end (or to hurry); nothing is lost if cancelled."""
        await self._phase.wait_value(lambda value: value >= phase)
