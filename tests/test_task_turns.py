"""Many tasks that move much at a time leave all others their turns."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from running_proxy import BOUND

from nono_trio.steps import MAX_SECONDS, StepQueue, go_on, move_much, turn
from nono_trio.task_turns import FEW, MOST
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


class Counted(trio.abc.Instrument):
    """Counts the steps of movers between two looks of trio's for events."""

    def __init__(self) -> None:
        self.steps = 0
        self.turns: list[int] = []

    def before_io_wait(self, timeout: float) -> None:
        self.turns.append(self.steps)
        self.steps = 0


@asynccontextmanager
async def movers(
    count: int, body: Callable[[int], Coroutine[None, None, None]]
) -> AsyncIterator[Counted]:
    """`count` tasks that move much; they are cancelled at the end of the block."""

    async def moves(number: int) -> None:
        await move_much()
        await body(number)

    counted = Counted()
    trio.lowlevel.add_instrument(counted)
    try:
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(StepQueue().run)
                for number in range(count):
                    nursery.start_soon(go_on, moves(number))
                yield counted
                nursery.cancel_scope.cancel()
    finally:
        trio.lowlevel.remove_instrument(counted)


@pytest.mark.parametrize(
    ("part", "most"), [(0.4, 2), (2.0, 1), (0.001, MOST)], ids=["long", "too long", "short"]
)
@pytest.mark.parametrize("woken", [True, False])
async def test_a_crowd_goes_on_a_few_at_a_time(monkeypatch, part, most, woken):
    """Each step takes a part of the time of one turn. A thousand took 0.7 s before others could."""
    now, count, wakers = [0.0], 200, [Waker() for _ in range(200)]
    done = [0] * count

    async def body(number: int) -> None:
        while True:
            counted.steps += 1
            done[number] += 1
            now[0] += MAX_SECONDS * part
            if woken:
                wakers[number - 1].wake()
                await wakers[number].sleep()
            else:
                await turn()

    monkeypatch.setattr("nono_trio.task_turns.perf_counter", lambda: now[0])
    async with movers(count, body) as counted:
        while len(counted.turns) < 400:
            await trio.lowlevel.checkpoint()
        late = counted.turns[-100:]
    assert max(late) <= most
    assert sum(late) > 50
    assert woken or max(done) - min(done) <= max(2, max(done) // 10)  # they wait in their order


async def test_a_few_do_not_wait_for_each_other():
    async def body(_: int) -> None:
        while True:
            counted.steps += 1
            await turn()

    async with movers(FEW, body) as counted:
        while len(counted.turns) < 20:
            await trio.lowlevel.checkpoint()
        assert set(counted.turns[-10:]) == {FEW}


async def test_those_that_have_ended_make_no_crowd():
    async def body(number: int) -> None:
        while number < FEW:
            counted.steps += 1
            await turn()

    async with movers(3 * MOST, body) as counted:
        while not counted.turns or counted.turns[-1] < FEW:
            await trio.lowlevel.checkpoint()
        begun = len(counted.turns)
        while len(counted.turns) < begun + 200:
            await trio.lowlevel.checkpoint()
        assert set(counted.turns[-10:]) == {FEW}


async def test_a_cancellation_reaches_each_that_waits_for_its_turn_and_no_wake_is_lost():
    ended, seen, wakers = [], [], [Waker() for _ in range(3 * MOST)]

    async def body(number: int) -> None:
        try:
            if number % 2:
                await wakers[number].sleep()
                seen.append(number)
            while True:
                await turn()
        finally:
            ended.append(number)

    async with movers(len(wakers), body):
        await trio.lowlevel.checkpoint()
        while len(seen) < MOST:
            for waker in wakers:
                waker.wake()
            await trio.lowlevel.checkpoint()
    assert sorted(ended) == [*range(len(wakers))]


async def test_those_that_wait_go_on_when_nobody_counts_their_turns_any_more():
    done = []

    async def body(number: int) -> None:
        await move_much()
        for _ in range(3):
            await turn()
        done.append(number)

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, trio.open_nursery() as driving:
            driving.start_soon(StepQueue().run)
            for number in range(3 * MOST):
                nursery.start_soon(go_on, body(number))
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            driving.cancel_scope.cancel()
    assert sorted(done) == [*range(3 * MOST)]
