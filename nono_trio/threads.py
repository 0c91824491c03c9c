"""Work in a thread, also while the system has no thread to give.

A command that starts processes until its user may have no more takes the supervisor's threads with
it, as the limit is the user's. That is no reason for a session to end, or for its log to be sealed
any less: whoever needs a thread waits for one, within the deadline that it has anyway.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    import outcome

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

MEETING_SECONDS: Final = 1.0  # for threads to start; it takes them a millisecond
RETRY_SECONDS: Final = 0.05  # the kernel has no wake-up for it, and a sync comes once a second
_NO_THREAD: Final = "can't start new thread"  # CPython's words: it has no type of its own for that


async def in_thread(
    function: Callable[[*_Arguments], _Result],
    *arguments: *_Arguments,
    limiter: trio.CapacityLimiter | None = None,
) -> _Result:
    """Run a blocking function in a thread and return its result, raising what it raises.

    If cancelled, the thread is left to itself (its slot of `limiter` stays taken until it ends);
    one that could not be started is not started any more.
    """
    while True:
        try:
            return await trio.to_thread.run_sync(
                function, *arguments, abandon_on_cancel=True, limiter=limiter
            )
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
        await trio.sleep(RETRY_SECONDS)


async def keep_spare(count: int) -> None:
    """Have `count` threads idle for whoever needs one next, while the system still has some.

    trio keeps an idle thread for ten seconds, and one that is used now and then for as long. Where
    there are not so many to be had, it does without.
    """
    together = threading.Barrier(count)  # each waits for the others, so no thread serves twice

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):
            together.wait(MEETING_SECONDS)

    with trio.move_on_after(MEETING_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(in_thread, meet)


async def start_thread(
    function: Callable[[], _Result], deliver: Callable[[outcome.Outcome[_Result]], object]
) -> None:
    """Start a thread for a blocking function and return; `deliver` gets its outcome, in the
    thread. If cancelled, no thread was started."""
    while True:
        try:
            return trio.lowlevel.start_thread_soon(function, deliver)
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
        await trio.sleep(RETRY_SECONDS)
