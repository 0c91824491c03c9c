"""The bounded queue between the producers and the writer, and the rest of the writer's task.

Rules of this file:
- Everything goes through one channel, so the order of the queue is the order of the log.
- The writer's task rests only while the queue is empty. What a task puts in wakes it.
- What a step puts in (steps.py) is written right after the steps that are due, without waking the
  writer's task. To wake that task, and then the one that runs the steps, would cost a twelfth of a
  request of one client alone. If such a write fails, the writer's task raises the error.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from nono_trio.errors import AuditLost, SessionSealed
from nono_trio.steps import after_steps

if TYPE_CHECKING:
    from collections.abc import Callable

_Item = TypeVar("_Item")

# One batch is one write and one turn of the loop: 512 records are about 2 ms of hashing here, and
# all other tasks wait for that long.
MOST_TAKEN: Final = 512


class RecordQueue(Generic[_Item]):
    """A queue of `size` items. `write` commits a batch; None if it would have to wait for that."""

    def __init__(self, size: int, write: Callable[[list[_Item]], None] | None = None) -> None:
        self._send: trio.MemorySendChannel[_Item]
        self._receive: trio.MemoryReceiveChannel[_Item]
        self._send, self._receive = trio.open_memory_channel(size)
        self._send_nowait, self._receive_nowait = (
            self._send.send_nowait,
            self._receive.receive_nowait,
        )
        self._write = write
        self._resting: Task | None = None
        self._is_due = False  # `_write_after_steps` will be called
        self._known = 0  # at least so many items are in the channel
        self._error: BaseException | None = None

    @property
    def peak(self) -> int:
        """The most items that have waited at once."""
        return self._receive.statistics().peak_buffer_used

    def put(self, item: _Item) -> bool:
        """Add an item; return False if the queue is full. Raises SessionSealed after
        `close_sending`, AuditLost after `close`."""
        try:
            self._send_nowait(item)
        except trio.WouldBlock:
            return False
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise _end(error) from None
        self._known += 1
        if not self._is_due:
            self._announce()
        return True

    async def put_slowly(self, item: _Item) -> None:
        """As `put`, but wait for space. If cancelled, the item is not in the queue."""
        try:
            await self._send.send(item)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise _end(error) from None
        self._rouse()  # which takes it, if it was not taken before this task went on

    async def next_batch(self) -> list[_Item]:
        """For the writer's task: wait for items and return them; [] after `close_sending`.

        Raises what `write` raised. If cancelled, no item is lost.
        """
        if self._is_idle:
            while self._is_idle:
                self._resting = current_task()
                await wait_task_rescheduled(self._stop_resting)
        else:
            await trio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        return self.take()

    def take(self) -> list[_Item]:
        """Return what waits, at most MOST_TAKEN items."""
        items = self._take_known()
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(items) < MOST_TAKEN:
                items.append(self._receive_nowait())
        return items

    def _take_known(self) -> list[_Item]:
        """As `take`, without a look for more: that costs as much as two items."""
        count = min(self._known, MOST_TAKEN)
        self._known -= count
        receive = self._receive_nowait
        return [receive() for _ in range(count)]

    def close_sending(self) -> None:
        """Nothing more is put in."""
        self._send.close()
        self._rouse()

    def close(self) -> None:
        """Nothing more is taken out."""
        self._receive.close()

    @property
    def _is_idle(self) -> bool:
        """There is nothing to take, and more may come."""
        now = self._receive.statistics()
        return not now.current_buffer_used and now.open_send_channels > 0 and self._error is None

    def _announce(self) -> None:
        """Have written what was put in."""
        if self._write is not None and after_steps(self._write_after_steps):
            self._is_due = True
        else:
            self._rouse()

    def _write_after_steps(self) -> None:
        """Commit a batch in place of the writer's task, if that still rests. Raises nothing."""
        self._is_due = False
        if self._resting is None or self._write is None:
            return
        items = self._take_known()
        try:
            self._write(items)
        except BaseException as error:  # noqa: ASYNC103  (the writer's task raises it)
            self._error = error
            self._rouse()
        if len(items) == MOST_TAKEN:
            self._rouse()

    def _rouse(self) -> None:
        task, self._resting = self._resting, None
        if task is not None:
            reschedule(task)

    def _stop_resting(self, _: object) -> Abort:
        self._resting = None
        return Abort.SUCCEEDED


def _end(error: Exception) -> SessionSealed | AuditLost:
    """The error of an end of the channel that is closed."""
    if isinstance(error, trio.ClosedResourceError):
        return SessionSealed("the session's log is sealed")
    return AuditLost("the audit log is not being written any more")
