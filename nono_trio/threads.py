"""Work in a thread, also while the system refuses new threads.

A command that starts as many processes as its user may have also takes the supervisor's threads,
because the limit is per user. The session must not end for that, and its log must still be sealed.
So a caller that needs a thread waits for one, within the caller's own deadline.
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

MEETING_SECONDS: Final = 1.0  # the time for threads to start; it takes them a millisecond
# the interval of the retries: the kernel sends no signal, and a sync comes once a second
RETRY_SECONDS: Final = 0.05
_NO_THREAD: Final = "can't start new thread"  # CPython's message: the error has no type of its own


async def in_thread(
    function: Callable[[*_Arguments], _Result],
    *arguments: *_Arguments,
    limiter: trio.CapacityLimiter | None = None,
) -> _Result:
    """Run a blocking function in a thread; return its result, or raise its exception.

    If cancelled, the thread keeps running, and keeps its slot of `limiter` until it ends; a
    thread that has not started yet is not started.
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
    """Start `count` idle threads for later callers, while the system still allows it.

    trio keeps an idle thread for ten seconds after each use. If the system allows fewer threads, no
    error is raised.
    """
    # each waits for the others, so that each is a thread of its own
    together = threading.Barrier(count)

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
    """Start a thread for a blocking function and return; `deliver` gets its outcome, in the thread.

    If cancelled, no thread was started.
    """
    while True:
        try:
            return trio.lowlevel.start_thread_soon(function, deliver)
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
        await trio.sleep(RETRY_SECONDS)
