"""`sleep_while`: what is called at each wake, in steps and in tasks, and how its sleep ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from running_proxy import BOUND
from steps_guard import no_task_in_steps

from nono_trio.steps import StepQueue, become_task
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAYS = ("steps", "task", "became a task while it slept")


class Sleeping:
    """A coroutine that sleeps as long as `left` wakes are left; `notes` is what happened."""

    def __init__(self, left: int) -> None:
        self.waker = Waker()
        self.left = left
        self.notes: list[str] = []
        self.error: Exception | None = None
        self.during: list[Waker] = []

    def look(self) -> bool:
        self.notes.append("look")
        while self.during:
            self.during.pop().wake()
        if self.error is not None:
            raise self.error
        self.left -= 1
        return self.left > 0

    async def body(self) -> None:
        try:
            await self.waker.sleep_while(self.look)
        except ValueError:
            self.notes.append("failed")
        except trio.Cancelled:
            self.notes.append("cancelled")
            raise
        else:
            self.notes.append("ended")


@asynccontextmanager
async def running() -> AsyncIterator[tuple[StepQueue, trio.CancelScope]]:
    """A queue whose steps run until the scope is cancelled."""
    queue, scope = StepQueue(), trio.CancelScope()

    async def run() -> None:
        with scope:
            await queue.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield queue, scope
        scope.cancel()


async def _open(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


@asynccontextmanager
async def asleep(way: str, one: Sleeping) -> AsyncIterator[trio.CancelScope]:
    """The coroutine sleeps in the block, in this way; yields what cancels it."""

    async def as_task() -> None:
        await become_task()
        await one.body()

    with trio.fail_after(BOUND), no_task_in_steps():
        async with trio.open_nursery() as outer, running() as (queue, stepping):
            nursery = await outer.start(_open)
            queue.start(as_task() if way == "task" else one.body(), nursery)
            await trio.testing.wait_all_tasks_blocked()
            assert one.notes == []
            if way == "became a task while it slept":
                stepping.cancel()
                await trio.testing.wait_all_tasks_blocked()
            assert len(queue) == (way == "steps")
            yield nursery.cancel_scope
            await trio.testing.wait_all_tasks_blocked()
            assert len(queue) == 0
            outer.cancel_scope.cancel()


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_called_at_each_wake_until_it_returns_false(way):
    one = Sleeping(3)
    async with asleep(way, one):
        for count in (1, 2):
            one.waker.wake()
            await trio.testing.wait_all_tasks_blocked()
            assert one.notes == ["look"] * count
        one.waker.wake()
    assert one.notes == ["look", "look", "look", "ended"]


@pytest.mark.parametrize("way", WAYS)
async def test_several_wakes_before_it_is_called_are_one(way):
    one = Sleeping(2)
    async with asleep(way, one):
        one.waker.wake()
        one.waker.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert one.notes == ["look"]
        one.waker.wake()
    assert one.notes == ["look", "look", "ended"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_wake_while_it_is_called_is_not_lost(way):
    one = Sleeping(2)
    async with asleep(way, one):
        one.during.append(one.waker)
        one.waker.wake()
    assert one.notes == ["look", "look", "ended"]


@pytest.mark.parametrize("way", WAYS)
async def test_its_error_is_raised_where_the_coroutine_sleeps(way):
    one = Sleeping(5)
    async with asleep(way, one):
        one.waker.wake()
        await trio.testing.wait_all_tasks_blocked()
        one.error = ValueError()
        one.waker.wake()
    assert one.notes == ["look", "look", "failed"]


@pytest.mark.parametrize("way", WAYS[1:])
async def test_a_task_that_sleeps_so_can_be_cancelled(way):
    one = Sleeping(5)
    async with asleep(way, one) as scope:
        one.waker.wake()
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert one.notes == ["look", "cancelled"]


@pytest.mark.parametrize("left", [1, 2])
async def test_a_wake_before_the_sleep_has_it_called_at_once(left):
    one = Sleeping(left)
    one.waker.wake()
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            queue = StepQueue()
            queue.start(one.body(), nursery)
            queue.run_due()
            assert one.notes == ["look", "ended"][: 3 - left]
            one.waker.wake()
            queue.run_due()
    assert one.notes == ["look"] * left + ["ended"]


async def test_a_wake_between_the_end_of_the_steps_and_the_task_is_not_lost():
    one = Sleeping(1)
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery, running() as (queue, stepping):
            queue.start(one.body(), nursery)
            await trio.testing.wait_all_tasks_blocked()
            stepping.cancel()
            one.waker.wake()  # it is due, and its steps end before it goes on
    assert one.notes == ["look", "ended"]
