"""Coroutines that go on in steps of a task of ours, and become tasks when they must wait for more.

Each time that a task of trio's goes on costs 5 us, as much as everything else that is done for a
part of a connection. A step costs a tenth of it. One coroutine goes both ways, so the order of its
actions is written once.

Rules of this file:
- In a step, only `Waker`s and `turn` wait. Whatever belongs to a task (scopes, nurseries, locks,
  events, sleeps, threads) comes after `become_task`, which never goes back.
- What waits by a bare `yield` is a generator, which costs less than a coroutine that awaits one:
  `await` takes it, and trio's `start_soon` does not.
- A step never begins inside another one. A wake only puts the coroutine into the queue.
- No exception of a coroutine reaches the task that runs its steps. A task of the coroutine's own
  nursery raises it, as if the coroutine had been a task from the beginning.
- Cancellation is for tasks: when the steps end, each coroutine becomes a task of its nursery and
  waits on there.
- A task that moves large bodies says so by `move_much`. While many do, all tasks of `go_on` take
  turns (task_turns.py), which `StepQueue.run` and the dispatcher begin.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from contextlib import suppress
from time import perf_counter
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from nono_trio.task_turns import TaskTurns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    _Call = TypeVar("_Call", bound="Callable[..., object]")
    Body: TypeAlias = Coroutine[Any, Any, None]
    GiveToTask: TypeAlias = Callable[[Body, trio.Nursery], None]
    """Has a task of the nursery go on with a coroutine that has begun."""
    Look: TypeAlias = Callable[[], bool]

# Before other tasks get their turn. Most steps take 40 us; those of bodies and large heads, 1 ms.
MAX_STEPS: Final = 128
MAX_SECONDS: Final = 0.005

WAIT: Final = "wait"
_BECOME_TASK: Final = "become a task"
_MARK: Final = "waits_in_steps"


class _Running:
    """The coroutine whose step runs in an event loop, and the turns of its tasks."""

    __slots__ = ("one", "turns")

    def __init__(self) -> None:
        self.one: Stepped | None = None
        self.turns = TaskTurns(MAX_SECONDS)


class _Here(threading.local):
    """What runs in this thread. To look here costs as much as a call."""

    def __init__(self) -> None:
        self.running = _Running()


here = _Here()


class Stepped:
    """One coroutine that has no task yet."""

    __slots__ = ("coroutine", "look", "nursery", "queue")

    def __init__(self, body: Body, nursery: trio.Nursery, queue: StepQueue) -> None:
        self.coroutine = body
        self.nursery = nursery
        self.queue = queue
        self.look: Look | None = None
        """Called at each wake instead of the coroutine, for `Waker.sleep_while`."""

    def call_after(self, call: Callable[[], None]) -> None:
        """As `after_steps`."""
        self.queue.call_after(call)

    def step(self, error: Exception | None = None) -> bool:
        """Go on until it waits or ends; return whether it waits. `error` is raised where it waits.
        Raises nothing but a Ctrl-C that came while `look` was called."""
        body = self.coroutine
        self.queue.running.one = self  # until the next step, or `run_due` ends
        if self.look is not None and error is None:
            try:
                if self.look():
                    return True
            except Exception as failure:
                return self.step(failure)
            self.look = None
        try:
            trap = body.send(None) if error is None else body.throw(error)
            while trap is not WAIT:
                if trap is _BECOME_TASK:
                    self.queue.move(self, body)
                    return False
                trap = body.throw(_refused(trap))
        except StopIteration:
            self.queue.leave(self)
        except BaseException as failure:  # noqa: ASYNC103  (a task raises it)
            self.queue.move(self, _raising(failure))
        else:
            return True
        return False

    @coroutine
    def take_turn(self) -> Generator[Any, Any, None]:
        """As `turn`."""
        self.queue.add(self)
        yield WAIT
        if self.queue.running.one is not self:  # the steps have ended, and it is a task now
            yield from trio.lowlevel.checkpoint()  # noqa: ASYNC105  (`await`, in a generator)


class StepQueue:
    """The coroutines of one event loop that go on in steps, and those that are due. It must be made
    in the thread of its loop.

    `give` gets a coroutine that becomes a task.
    """

    def __init__(self) -> None:
        self.give: GiveToTask = start_task
        self.is_held = False
        """`run_due` is at work or will be called at once, so `run` need not be woken."""
        self.running = here.running
        self._is_open = True
        self.due: deque[Stepped] = deque()
        """Those that go on next. One that is in no step any more is passed over."""
        self._after: list[Callable[[], None]] = []
        self._members: dict[Stepped, None] = {}
        self._resting: Task | None = None

    def __len__(self) -> int:
        return len(self._members)

    def start(self, body: Body, nursery: trio.Nursery) -> None:
        """Begin a coroutine with the next steps."""
        if not self._is_open:
            self.give(body, nursery)
            return
        one = Stepped(body, nursery, self)
        self._members[one] = None
        self.add(one)

    def add(self, one: Stepped) -> None:
        """For a coroutine that is woken: make it due."""
        self.due.append(one)
        if not self.is_held:
            self.rouse()

    def begin_turn(self) -> float:
        """Begin a turn of the dispatcher; return when it ends."""
        turns = self.running.turns
        if not turns.waiting:  # else `run` lets the next tasks go on
            turns.begin()
        return perf_counter() + MAX_SECONDS

    def run_due(self, ends: float | None = None) -> bool:
        """Run the steps that are due: MAX_STEPS at most, until `ends`, which `begin_turn` gave.
        The task of `run` does the others. Returns False if the time was up, so that other tasks
        need their turn."""
        if ends is None:
            ends = perf_counter() + MAX_SECONDS
        due, members, left = self.due, self._members, MAX_STEPS
        in_time = goes_on = True
        self.is_held = True
        try:
            while due and left and goes_on:
                for _ in range(min(len(due), left)):
                    left -= 1
                    one = due.popleft()
                    if one in members:
                        one.step()
                    if perf_counter() > ends:
                        in_time = False
                        break
                self.running.one = None
                goes_on = self._conclude() and in_time
        except BaseException:  # Ctrl-C between two steps: what tasks do at the end is in no step
            self.running.one = None
            self._conclude()
            raise
        finally:
            self.is_held = False
        if due or self.running.turns.waiting:
            self.rouse()
        return in_time

    def call_after(self, call: Callable[[], None]) -> None:
        """As `after_steps`."""
        self._after.append(call)

    def _conclude(self) -> bool:
        """Call what was given to `after_steps`, if anything was."""
        if not self._after:
            return False
        calls, self._after = self._after, []
        for call in calls:
            call()
        return True

    async def run(self) -> NoReturn:
        """Run the steps that others make due, until cancelled: then all become tasks."""
        self._is_open = True
        turns = self.running.turns
        turns.drive(self._rouse_unless_held)
        try:
            while True:
                turns.begin()
                self.run_due()
                if self.due or turns.waiting:
                    await trio.lowlevel.checkpoint()
                else:
                    self._resting = current_task()
                    await wait_task_rescheduled(self._stop_resting)
        finally:
            turns.stop_driving(self._rouse_unless_held)
            self._end()

    def leave(self, one: Stepped) -> None:
        """For a coroutine that has ended, or is in no step any more."""
        self._members.pop(one, None)

    def move(self, one: Stepped, body: Body) -> None:
        """For a coroutine that becomes a task: have `body` go on."""
        self.give(body, one.nursery)
        self.leave(one)

    def _end(self) -> None:
        self._is_open = False
        for one in [*self._members]:
            self.move(one, one.coroutine)
        self.due.clear()

    def _rouse_unless_held(self) -> None:
        if not self.is_held:
            self.rouse()

    def rouse(self) -> None:
        """Have `run` look for what is due."""
        task, self._resting = self._resting, None
        if task is not None:
            reschedule(task)

    def _stop_resting(self, _: object) -> Abort:
        self._resting = None
        return Abort.SUCCEEDED


def after_steps(call: Callable[[], None]) -> bool:
    """In a step: have `call`, which must neither wait nor raise, called once the steps that are due
    have run; what it wakes goes on in the same turn. Returns False outside of a step."""
    one = here.running.one
    if one is None:
        return False
    one.call_after(call)
    return True


def turn() -> Awaitable[None]:
    """Let all others that are due go on first. A checkpoint in a task."""
    running = here.running
    return running.turns.take() if running.one is None else running.one.take_turn()


@coroutine
def become_task() -> Generator[Any, Any, None]:
    """From here on, be a task of trio's; for a task it does nothing."""
    if here.running.one is not None:
        yield _BECOME_TASK


async def move_much() -> None:
    """Become a task that moves much: while many such tasks move, it waits for its turns. A task
    must run in `go_on`, which notes its end; without that it would count as moving for ever."""
    await become_task()
    here.running.turns.join()


def is_cancelled() -> bool:
    """Return whether this task is cancelled. A coroutine in steps never is."""
    return here.running.one is None and trio.current_effective_deadline() == -math.inf


def stepwise(call: _Call) -> _Call:
    """Mark a coroutine function that waits by this file's rules."""
    setattr(call, _MARK, True)
    return call


def in_task_unless_stepwise(call: _Call) -> _Call:
    """Return `call`; if it is not marked, one that becomes a task first. For what others write."""
    if getattr(call, _MARK, False) or getattr(type(call).__call__, _MARK, False):
        return call

    async def in_task(*arguments: object) -> object:
        await become_task()
        return await call(*arguments)  # type: ignore[misc]

    return in_task  # type: ignore[return-value]


def start_task(body: Body, nursery: trio.Nursery) -> None:
    """As `GiveToTask`, with a new task."""
    nursery.start_soon(go_on, body)


async def go_on(body: Body) -> None:
    """Go on with a coroutine that may have begun. Raises what it raises."""
    turns = here.running.turns
    await turns.enter()
    try:
        await _delegate(body)
    finally:
        turns.leave()


@coroutine
def _delegate(body: Body) -> Generator[Any, Any, None]:
    yield from body  # `await` refuses a coroutine that has begun


async def _raising(failure: BaseException) -> None:  # noqa: ASYNC124  (a task runs it)
    raise failure


def _refused(trap: object) -> AssertionError:
    """The error for a wait of trio's outside of a task. Its place in a queue is given up, as the
    task that runs the steps must not be woken for it."""
    forget = getattr(trap, "abort_func", None)
    if forget is not None:
        with suppress(Exception):
            forget(_never)
    return AssertionError("a step must not wait for what belongs to a task")


def _never() -> NoReturn:
    raise AssertionError("nothing was cancelled")
