"""The producers' side of the audit: one call that returns once the decision is in the log.

`Recorder.record` ensures "record before act": a caller must await it before it acts. Rules: no
event is dropped silently (in strict mode none is dropped at all); the queue and the wait for it are
bounded; after the seal every call fails.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

import msgspec
import trio

from nono_trio.core.log.events import Network
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.steps import become_task, stepwise
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType

    from nono_trio.audit.write.record_queue import RecordQueue
    from nono_trio.core.log.events import Flow, NetworkEvent, Payload
    from nono_trio.core.log.processes import Found, RecordOrigin, Sought

    Item: TypeAlias = "Pending | Flow | bytes"
    """An entry of the queue: a record, or a line of flows.ndjson or of processes.ndjson."""

AuditMode = Literal["strict", "best-effort"]
AuditSync = Literal["always", "interval", "never"]

# If a queue stays full this long, the disk no longer answers; then: no record, no action.
QUEUE_SECONDS = 10.0

# A thread reads the arguments of a new program, which may end as soon as it is answered. On a busy
# machine a thread waits for its turn among several others.
DESCRIBED_SECONDS = 0.100

MOST_LEFT = 8  # they must fit in the space that the end of a log has: half a KiB each

# The value that `record` returns in best-effort mode for an event that is counted as lost.
NOT_RECORDED = -1


class Pending(msgspec.Struct, eq=False):
    """One event on its way to the log, and who waits for it.

    A one-shot event of our own instead of a `trio.Event`: every request passes here, and the
    parking lot of an Event costs more than the rest of the call. A Struct is made without Python
    code.
    """

    payload: Payload
    origin: RecordOrigin | None = None
    found: Found | None = None
    described: trio.Event | None = None
    answer: int | Exception | None = None
    """The record's sequence, or the error if it is not in the log; None until then."""
    waker: Waker | None = None
    """Wakes the producer, which waits for the answer."""

    def settle(self, answer: int | Exception) -> None:
        """Wake the producer: with a sequence (the record is in the log, or counted as lost) it may
        act, with an error it must not. Only the first answer counts."""
        if self.answer is None:
            self.answer = answer
            if self.waker is not None:
                self.waker.wake()


class RecordsDecisions(Protocol):
    """The interface of the audit that the proxy uses."""

    async def record(self, event: NetworkEvent, origin: RecordOrigin | None = None) -> int:
        """Return the sequence once the event is in the log. `origin`: whose socket it came from."""
        ...

    def record_flow(self, flow: Flow) -> None:
        """Record the result of an allowed connection."""
        ...

    def leave_for_end(self, payload: Payload) -> None:
        """Have a count recorded with the last records of the log."""
        ...


class FindsPrograms(Protocol):
    """Tells which programs records came from. Nothing of it waits or raises."""

    def find(self, origins: Sequence[RecordOrigin]) -> Sequence[Found | Sought]:
        """Return the result for each origin, or what `search` needs."""
        ...

    def search(self, sought: Sought, tell: Callable[[Found], None]) -> None:
        """Look longer, and call `tell` once: now, or within a second or two."""
        ...

    def described(self, found: Found) -> trio.Event | None:
        """Return what is set once the programs' arguments are known; None if nothing is awaited."""
        ...

    def lines(self, sequence: int, found: Found) -> bytes:
        """Return the lines of a record for processes.ndjson; b"" if they come later."""
        ...


class Recorder:
    """A producer's handle on the audit queue; the writer ends when its `with` block is left."""

    def __init__(self, queue: RecordQueue[Item], mode: AuditMode) -> None:
        self._queue = queue
        self._mode = mode
        self.programs: FindsPrograms | None = None
        """Tells which programs records came from; None if that is not recorded."""
        self.lost_to_full_queue = 0
        self.lost_flows = 0
        # What comes before the next batch: events that were searched for, bounded by who searches.
        self.searched: list[Pending] = []
        # What comes after it, because it did not fit in the queue. Each flow belongs to a committed
        # decision, and no other decision is committed while it waits, so there are at most as many
        # as open connections. Lines are bounded by who describes programs.
        self.waiting: list[Flow | bytes] = []
        self._left: list[Payload] = []

    @stepwise
    def record(
        self, event: NetworkEvent, origin: RecordOrigin | None = None
    ) -> Coroutine[Any, Any, int]:
        """Commit one network decision; return its sequence (best-effort: or NOT_RECORDED).

        `origin` is whose socket it came from: its holder is looked for as the record is committed,
        and what takes time about a new program is waited for DESCRIBED_SECONDS.

        Raises AuditBusy if the queue stayed full for QUEUE_SECONDS, AuditLost if the log has
        failed, SessionSealed after the end: in all three cases nothing was recorded and nothing may
        be done. If cancelled, the event may still be recorded; the caller must not act on it.
        """
        return self.record_payload(Network(event=event), origin)

    @stepwise
    async def record_payload(self, payload: Payload, origin: RecordOrigin | None = None) -> int:
        """Commit any payload; as `record`."""
        pending = Pending(payload, origin)
        if not self._queue.put(pending) and not await self._put_slowly(pending):
            return NOT_RECORDED
        if pending.answer is None:
            pending.waker = Waker()
            await pending.waker.sleep()
        sequence = pending.answer
        if not isinstance(sequence, int):
            raise sequence or AssertionError("released without an answer")
        if pending.described is not None:
            await become_task()
            with trio.move_on_after(DESCRIBED_SECONDS):
                await self._described(pending)
        return sequence

    async def _described(self, pending: Pending) -> None:
        """Wait for the arguments of each program that has the socket, one after the other."""
        while pending.described is not None:
            await pending.described.wait()
            if self.programs is None or pending.found is None:
                return
            pending.described = self.programs.described(pending.found)

    async def _put_slowly(self, pending: Pending) -> bool:
        """Wait for space (strict), or count the loss at once (best-effort) and return False."""
        if self._mode == "best-effort":
            self.lost_to_full_queue += 1
            return False
        await become_task()
        with trio.move_on_after(QUEUE_SECONDS) as waiting:
            await self._queue.put_slowly(pending)
        if waiting.cancelled_caught:
            raise AuditBusy(f"the audit queue stayed full for {QUEUE_SECONDS:.0f} s")
        return True

    def record_flow(self, flow: Flow) -> None:
        """Queue one flow line; never waits, so it may be called during cancellation.

        If the queue is full, the line is written with the next batch. After the end it is only
        counted: the decision itself is in the log.
        """
        if flow.sequence == NOT_RECORDED:
            return
        try:
            if not self._queue.put(flow):
                self.waiting.append(flow)
        except (SessionSealed, AuditLost):
            self.lost_flows += 1

    def leave_for_end(self, payload: Payload) -> None:
        """Have a record written directly before those of the seal, in the same append; never waits.

        For a few counts whose own records the log was too slow for. Call it while the recorder is
        open; of more than MOST_LEFT records the first are kept, the others counted as lost.
        """
        if len(self._left) < MOST_LEFT:
            self._left.append(payload)
        else:
            self.lost_to_full_queue += 1

    def take_left(self) -> list[Payload]:
        """For the writer, at the end: return the records of `leave_for_end`."""
        left, self._left = self._left, []
        return left

    def record_lines(self, lines: bytes) -> None:
        """Queue whole lines of processes.ndjson; as `record_flow`."""
        with suppress(SessionSealed, AuditLost):  # the records are valid without them
            if not self._queue.put(lines):
                self.waiting.append(lines)

    def commit_searched(self, pending: Pending) -> None:
        """For the writer: have it commit, with the next batch, an event that was searched for."""
        self.searched.append(pending)
        # Wakes the writer; if the queue is full or closed, it is awake.
        with suppress(SessionSealed, AuditLost):
            self._queue.put(b"")

    def take_searched(self) -> list[Pending]:
        """For the writer: return the events of `commit_searched`."""
        searched, self.searched = self.searched, []
        return searched

    def take_waiting(self) -> list[Flow | bytes]:
        """For the writer: return the flows and lines that did not fit in the queue."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not `async with`: that would let Cancelled replace the error on its way (trio#1559).
        self._queue.close_sending()
