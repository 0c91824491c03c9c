"""Coroutines that go on in steps: who runs them, when they become tasks, what their errors do."""

from __future__ import annotations

import gc
import socket
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
from running_proxy import BOUND
from steps_guard import no_task_in_steps

from nono_trio.proxy.listeners.task_pool import TaskPool
from nono_trio.proxy.transport.epoll import Readiness, Watch
from nono_trio.steps import (
    MAX_SECONDS,
    MAX_STEPS,
    StepQueue,
    after_steps,
    become_task,
    here,
    in_task_unless_stepwise,
    is_cancelled,
    start_task,
    stepwise,
    turn,
)
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


class Tasks(trio.abc.Instrument):
    """Counts the tasks that begin."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.begun.append(task.name)


@asynccontextmanager
async def running_steps() -> AsyncIterator[tuple[StepQueue, trio.Nursery]]:
    """A queue whose steps run until the block ends."""
    with trio.fail_after(BOUND), no_task_in_steps():
        async with trio.open_nursery() as nursery:
            queue = StepQueue()
            await nursery.start(_run, queue)
            yield queue, nursery
            nursery.cancel_scope.cancel()


async def _run(queue: StepQueue, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await queue.run()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_waits_and_turns_need_no_task():
    tasks, waker, seen = Tasks(), Waker(), []

    async def body() -> None:
        seen.append("begun")
        await waker.sleep()
        seen.append("woken")
        await turn()
        seen.append("its turn")

    async with running_steps() as (queue, nursery):
        trio.lowlevel.add_instrument(tasks)
        queue.start(body(), nursery)
        assert seen == []
        await settle()
        assert seen == ["begun"]
        waker.wake()
        await settle()
        trio.lowlevel.remove_instrument(tasks)
        assert seen == ["begun", "woken", "its turn"]
        assert (tasks.begun, len(queue)) == ([], 0)


@pytest.mark.parametrize("pooled", [True, False])
async def test_what_belongs_to_a_task_comes_after_it_has_become_one(pooled):
    seen = []

    async def body() -> None:
        await become_task()
        with trio.move_on_after(0):
            await trio.sleep_forever()
        await become_task()
        await turn()
        seen.append(trio.lowlevel.current_task().name)

    async with running_steps() as (queue, nursery):
        if pooled:
            queue.give = TaskPool().give
        for _ in range(2):
            queue.start(body(), nursery)
            await settle()
        assert len(seen) == 2
        assert len(queue) == 0


async def test_a_wait_outside_of_a_task_fails_that_coroutine_alone():
    """Without the guard, trio takes the task that runs the steps for the one that waits."""
    event, seen = trio.Event(), []

    async def body() -> None:
        try:
            await event.wait()
        except AssertionError as error:
            seen.append(str(error))

    async def other() -> None:
        await turn()
        seen.append("other")

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            queue = StepQueue()
            await nursery.start(_run, queue)
            queue.start(body(), nursery)
            queue.start(other(), nursery)
            await settle()
            queue.start(other(), nursery)  # wakes the task of the steps: nothing else may any more
            event.set()
            await settle()
            nursery.cancel_scope.cancel()
    assert seen == ["a step must not wait for what belongs to a task", "other", "other"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
async def test_an_error_is_raised_by_a_task_of_the_coroutines_own_nursery(error):
    seen = []

    async def body() -> None:
        await turn()
        raise error

    async def other() -> None:
        await turn()
        await turn()
        seen.append("other")

    async with running_steps() as (queue, _):
        with pytest.RaisesGroup(type(error)):
            async with trio.open_nursery() as own:
                queue.start(body(), own)
                queue.start(other(), own)
                await trio.sleep_forever()
        await settle()
        queue.start(other(), own)
        await settle()
        assert seen == ["other", "other"]


async def test_ctrl_c_between_two_steps_leaves_none_behind():
    seen = []

    def give(body: Coroutine[object, object, None], _: trio.Nursery) -> NoReturn:
        body.close()
        raise KeyboardInterrupt

    async def body() -> None:
        assert after_steps(lambda: seen.append(here.running.one))
        await become_task()

    queue = StepQueue()
    queue.give = give
    async with trio.open_nursery() as nursery:
        queue.start(body(), nursery)
        with pytest.raises(KeyboardInterrupt):
            queue.run_due()
        assert seen == [None]
        assert not queue.is_held
        await turn()
        waker = Waker()
        waker.wake()
        await waker.sleep()
        await become_task()


async def test_cancellation_makes_tasks_of_all_and_reaches_each_where_it_waits():
    wakers, seen = [Waker(), Waker(), Waker()], []

    async def body(waker: Waker) -> None:
        try:
            await waker.sleep()
            seen.append("woken")
            await turn()
        except trio.Cancelled:
            assert is_cancelled()
            seen.append("cancelled")
            raise

    async def never_ends() -> None:
        try:
            while True:
                await turn()
        finally:
            seen.append("turned")

    async with running_steps() as (queue, nursery):
        for waker in wakers:
            queue.start(body(waker), nursery)
        await settle()
        queue.start(never_ends(), nursery)
        wakers[1].wake()
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        wakers[2].wake()
    assert sorted(seen) == ["cancelled", "cancelled", "cancelled", "turned", "woken", "woken"]
    assert len(queue) == 0


async def test_a_wake_between_the_end_of_the_steps_and_the_task_is_not_lost():
    waker, moved, seen = Waker(), [], []

    async def body() -> None:
        await waker.sleep()
        seen.append("woken")

    async with running_steps() as (queue, nursery):
        queue.give = lambda body, _: moved.append(body)
        queue.start(body(), nursery)
        await settle()
    waker.wake()
    async with trio.open_nursery() as nursery:
        start_task(*moved, nursery)
        await settle()
        nursery.cancel_scope.cancel()
    assert seen == ["woken"]


async def test_a_wait_that_has_failed_is_woken_no_more():
    failing, lasting, steppers, seen = Waker(), Waker(), [], []

    async def body() -> None:
        steppers.append(here.running.one)
        with pytest.raises(ValueError, match="x"):
            await failing.sleep()
        await lasting.sleep()
        seen.append("woken")

    async with running_steps() as (queue, nursery):
        queue.start(body(), nursery)
        await settle()
        assert steppers.pop().step(ValueError("x"))
        failing.wake()
        await settle()
        assert seen == []
        lasting.wake()
        await settle()
        assert seen == ["woken"]


async def test_after_the_end_there_are_only_tasks():
    seen = []

    async def body() -> None:
        seen.append(trio.lowlevel.current_task().name)

    async with running_steps() as (queue, nursery):
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        queue.start(body(), nursery)
    assert len(seen) == 1


async def test_a_wake_inside_a_step_begins_no_step_there():
    waker, seen = Waker(), []

    async def first() -> None:
        await waker.sleep()
        seen.append("first")

    async def second() -> None:
        waker.wake()
        seen.append("second")

    async with running_steps() as (queue, nursery):
        queue.start(first(), nursery)
        await settle()
        queue.start(second(), nursery)
        await settle()
    assert seen == ["second", "first"]


async def test_what_is_called_after_the_steps_lets_others_go_on_in_the_same_turn(monkeypatch):
    monkeypatch.setattr("nono_trio.steps.perf_counter", lambda: 0.0)  # the time is never up
    waker, seen, queue = Waker(), [], StepQueue()

    def call() -> None:
        seen.append("called")
        waker.wake()

    async def waits() -> None:
        after_steps(call)
        await waker.sleep()
        seen.append("woken")

    async def takes_turns() -> None:
        for _ in range(3):
            seen.append("turn")
            await turn()

    assert not after_steps(call)  # in no step
    async with trio.open_nursery() as nursery:
        queue.start(waits(), nursery)
        queue.run_due()
        assert seen == ["called", "woken"]
        queue.start(takes_turns(), nursery)
        queue.run_due()
        assert seen == ["called", "woken", "turn"]
        queue.run_due()
        queue.run_due()
        queue.run_due()
    assert len(queue) == 0


async def test_what_is_to_be_called_after_the_steps_is_called_when_the_time_is_up(monkeypatch):
    now, seen, queue = [0.0], [], StepQueue()

    async def body() -> None:
        after_steps(lambda: seen.append("called"))
        now[0] += 2 * MAX_SECONDS

    monkeypatch.setattr("nono_trio.steps.perf_counter", lambda: now[0])
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            queue.start(body(), nursery)
        assert [(queue.run_due(), len(seen)) for _ in range(2)] == [(False, 1), (False, 2)]


async def test_many_that_are_due_leave_turns_to_tasks():
    left = 0

    async def body() -> None:
        nonlocal left
        left -= 1

    async with running_steps() as (queue, nursery):
        left = 3 * MAX_STEPS
        for _ in range(left):
            queue.start(body(), nursery)
        seen = []
        while left:
            await trio.lowlevel.checkpoint()
            seen.append(left)
    assert any(0 < one < 3 * MAX_STEPS for one in seen)


async def test_long_steps_leave_turns_to_tasks(monkeypatch):
    now, seen, queue = [0.0], [], StepQueue()

    async def body(number: int) -> None:
        seen.append(number)
        now[0] += MAX_SECONDS * 0.4

    monkeypatch.setattr("nono_trio.steps.perf_counter", lambda: now[0])
    async with trio.open_nursery() as nursery:
        for number in range(7):
            queue.start(body(number), nursery)
        results = [(queue.run_due(), len(seen)) for _ in range(3)]
    assert results == [(False, 3), (False, 6), (True, 7)]
    assert seen == [*range(7)]


async def test_looks_for_events_share_the_time_of_one_turn(monkeypatch):
    now, seen, turns = [0.0], [], []
    readiness, watch = Readiness(), Watch("client", Waker())

    async def answers_itself() -> None:
        while True:
            await watch.waker.sleep()
            seen.append(near.recv(1))
            now[0] += MAX_SECONDS * 0.4
            far.send(b"x")

    monkeypatch.setattr("nono_trio.steps.perf_counter", lambda: now[0])
    near, far = socket.socketpair()
    with near, far, trio.fail_after(BOUND):
        readiness.register(near.fileno(), watch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.dispatch)
            nursery.start_soon(readiness.steps.run)
            readiness.steps.start(answers_itself(), nursery)
            far.send(b"x")
            while len(seen) < 20:
                before = len(seen)
                await trio.lowlevel.checkpoint()
                turns.append(len(seen) - before)
            nursery.cancel_scope.cancel()
    readiness.close()
    assert max(turns) <= 2 * 3  # between two checkpoints the dispatcher has two turns at most


async def test_what_others_write_is_called_in_a_task():
    class Marked:
        @stepwise
        async def __call__(self) -> str:
            return "in a step"

    class Unmarked(Marked):
        async def __call__(self) -> str:
            await trio.lowlevel.checkpoint()
            return "in a task"

    @stepwise
    async def marked() -> str:
        return "in a step"

    seen, tasks = [], Tasks()

    async def body(call: object) -> None:
        seen.append(await in_task_unless_stepwise(call)())

    async with running_steps() as (queue, nursery):
        trio.lowlevel.add_instrument(tasks)
        for call in (Marked(), marked, Unmarked()):
            queue.start(body(call), nursery)
            await settle()
        trio.lowlevel.remove_instrument(tasks)
    assert seen == ["in a step", "in a step", "in a task"]
    assert len(tasks.begun) == 1


@pytest.mark.parametrize("in_task", [True, False])
async def test_nothing_is_left_of_one_that_has_ended(in_task):
    class Held:
        pass

    async def body(held: Held) -> None:
        waker = Waker()
        waker.wake()
        await waker.sleep()
        if in_task:
            await become_task()
        await turn()

    gc.disable()
    try:
        async with running_steps() as (queue, nursery):
            queue.give = TaskPool().give
            held = Held()
            found = weakref.ref(held)
            queue.start(body(held), nursery)
            del held
            await settle()
            assert found() is None
    finally:
        gc.enable()
