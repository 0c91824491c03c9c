"""The user's signals: the first asks the session to end, the second to hurry.

The receiver is the outermost lifetime of a session: it stays open until the log is sealed, so a
second Ctrl-C shortens what is being waited for and never cuts the seal. Signals that mean something
to the command only are passed on to it, as sudo and docker do; the rest, which would be about our
own timers and limits, is outlived. What our caller ignores, we ignore.
"""

from __future__ import annotations

import enum
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from trio_util import AsyncValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import FrameType

# SIGQUIT too: by default it would dump our memory into the working directory.
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH)
_REAL_TIME = range(getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", -1) + 1)
# Signals that end a program without a handler, but for faults of our own, which must end us.
_OUTLIVED = ("SIGXCPU", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGEMT")
# Of each, a program that is not stopped sees one at a time, however many are sent.
_MOST_WAITING = 128


def asking_signals() -> list[signal.Signals]:
    """Return the signals that ask a session to end: not those that our caller ignores (nohup)."""
    return [
        number
        for number in _ASKING
        if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]


def passed_on_signals() -> list[int]:
    """Return the signals that are the command's: those that our caller does not ignore."""
    every = (*_PASSED_ON, *_REAL_TIME)
    return [int(number) for number in every if signal.getsignal(number) is not signal.SIG_IGN]


def _outlive(_number: int, _frame: FrameType | None) -> None:
    """A handler in the place of the default, which would end us; an exec takes it back."""


@contextmanager
def outliving_signals() -> Iterator[None]:
    """From here no signal ends a session without a seal: around its record and its supervision.

    Those that ask wait for the session's receiver, which has to call `let_asking_through`; the
    others are outlived from now on, also behind the block. Main thread, before there are others.
    """
    rest = (getattr(signal, name, None) for name in _OUTLIVED)
    for number in (*passed_on_signals(), *(one for one in rest if one is not None)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _outlive)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asking_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_asking_through() -> None:
    """Take the signals that ask, and those that came meanwhile: the receiver is open."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, asking_signals())


class Phase(enum.IntEnum):
    """How far a session has been asked to end."""

    RUNNING = 0
    ENDING = 1
    HURRYING = 2


class Shutdown:
    """The phase of a session; it only ever moves forward."""

    def __init__(self) -> None:
        self._phase: AsyncValue[Phase] = AsyncValue(Phase.RUNNING)
        self.signal = int(signal.SIGTERM)  # passed on to the child: the first signal that came
        self._pass_on, self._passed_on = trio.open_memory_channel[int](_MOST_WAITING)

    async def watch(self, signals: AsyncIterator[int]) -> None:
        """Move one phase on with each signal that asks, for as long as signals come."""
        async for number in signals:
            if number in _ASKING:
                self.advance(number)
            else:
                with suppress(trio.WouldBlock):  # as one that is pending already is not doubled
                    self._pass_on.send_nowait(number)

    async def next_for_command(self) -> int:
        """Wait for the next signal that is the command's; if cancelled, none was taken."""
        return await self._passed_on.receive()

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
