"""The one writer: appends the queued events with one write, then wakes their producers.

File order is queue order. One function commits a batch (`_write`). This task calls it. While this
task rests, the one that runs steps calls it for what those have put into the queue
(record_queue.py).
Rules: the task ends only when every send handle is closed (closing the receiving end earlier would
drop the queue). In strict mode the first failure fails all waiting producers and ends the session.
In best-effort mode failures are counted, and the count is recorded before the next record and
before the end. Syncs are in checkpointer.py. On a full disk nothing more is recorded (strict: nor
allowed); the end uses the space reserved for it, so that the log says why it ends. Long texts of a
child are shortened here, because every record passes here.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from nono_trio.audit.write.chained_log import SyncFailed
from nono_trio.audit.write.checkpointer import Checkpointer
from nono_trio.audit.write.disk_room import NoRoom
from nono_trio.audit.write.record_queue import RecordQueue
from nono_trio.audit.write.recorder import NOT_RECORDED, Pending, Recorder
from nono_trio.audit.write.totals import Totals
from nono_trio.audit.write.watchdog import AppendWatchdog
from nono_trio.core.log.events import (
    Flow,
    Network,
    SessionEnded,
    encode_flow,
    encode_flows,
    encode_payload,
    encode_payloads,
)
from nono_trio.core.log.notices import QUEUE_FULL, early_end_record, gap_record
from nono_trio.core.log.processes import UNKNOWN, Sought
from nono_trio.core.log.text_limits import SHORT_RECORD, bounded_payload, bounded_struct
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.errors import AuditLost
from nono_trio.posix.clock import unix_ms
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.audit.write.recorder import AuditMode, AuditSync, FindsPrograms, Item
    from nono_trio.audit.write.session_files import LogFiles
    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.processes import Found

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Writer:
    """Owns the receiving end of the audit queue and the files behind it."""

    def __init__(
        self,
        files: LogFiles,
        *,
        mode: AuditMode,
        sync: AuditSync,
        queue: int,
        warn: Callable[[str], None],
    ) -> None:
        self.files = files
        self.totals = Totals()
        self.ended: SessionEnded | None = None
        self.observers: list[Callable[[int, Payload], None]] = []
        # Called before the observers, for each record whose programs were looked for.
        self.program_observers: list[Callable[[int, Found], None]] = []
        # The error of a full disk (strict); the session's runner then ends it.
        self.full: AuditLost | None = None
        self.is_full = trio.Event()
        self.watchdog = AppendWatchdog()
        # Writes summary.json for a log of that many records and returns the record that binds it.
        self.summarise: Callable[[Totals, int], Network] | None = None
        self._mode = mode
        self._sync = sync
        self._warn = warn
        self._searching: set[Pending] = set()
        self._failures = 0
        self._unsealable = False
        self._queue: RecordQueue[Item]
        self._queue = RecordQueue(queue, None if sync == "always" else self._write_now)
        self.recorder = Recorder(self._queue, mode)
        self._checkpointer = Checkpointer(files, sync, lambda: self.totals.lost)

    async def sign_beginning(self) -> None:
        """Sign the first records of a signed session; raises AuditLost.

        It comes before the command, so a signer that does not work ends the session before anything
        happened, and what the session is allowed is signed in every log.
        """
        if self.files.signer is None:
            return
        try:
            await self._checkpointer.checkpoint(forced=True)
        except OSError as error:
            raise self._lost(error) from error

    async def run(self) -> None:
        """Write until every recorder is closed, then the summary's record and `ended`, the last.

        Raises AuditLost if the log failed (strict). If cancelled, all queued events fail; none is
        left waiting.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._checkpointer.run, self._sync_failed)
                while items := await self._queue.next_batch():
                    await self._write(items)
                await self._write_searched()
                self._checkpointer.stop()
            if self.ended is not None:
                await self._write_end(self.ended)
        except BaseExceptionGroup as group:
            lost, rest = group.split(AuditLost)
            if lost is None or rest is not None:
                raise
            raise _first(lost) from group
        finally:
            self.totals.peak_queue = self._queue.peak
            while items := self._queue.take():
                _fail(items, AuditLost("the audit log can't be written: the writer has ended"))
            _fail(
                [*self.recorder.take_searched(), *self._searching],
                AuditLost("the audit log can't be written: the writer has ended"),
            )
            self._searching.clear()
            self._queue.close()

    async def _write_searched(self) -> None:
        """Commit what was searched for as the queue closed, whether it was found or not."""
        for item in self._searching:
            item.found = UNKNOWN
            self.recorder.commit_searched(item)
        self._searching.clear()
        await self._write([])

    async def _write_end(self, ended: SessionEnded) -> None:
        """Write the last records in one append, into the space reserved for it.

        A crash leaves all of them whole, or a torn tail without an end.
        """
        self.totals.exit_code = ended.exit_code
        last: list[Payload] = [*self._gaps(), *self.recorder.take_left(), ended]
        self.totals.attempts.add_all(last)  # before the summary, which has the verdict
        self.totals.lost_flows += self.recorder.lost_flows
        if self.full is not None:
            last.insert(0, early_end_record(self.full.message, unix_ms()))
        self.totals.peak_queue = self._queue.peak
        try:
            if self.summarise is not None:
                count = self.files.log.sequence + len(last) + 1
                summary = await in_thread(
                    self.summarise, self.totals, count, limiter=self._checkpointer.thread
                )
                last.insert(-1, summary)
            first = self._append_payloads(last, last=True)
        except OSError as error:
            raise self._lost(error) from error
        self.totals.keep_events(last)
        self._tell_observers(first, last)

    def _write_now(self, items: Sequence[Item]) -> None:
        """As `_write`, which waits for nothing if batches need no sync."""
        try:
            self._write(items).send(None)
        except StopIteration:
            return
        raise AssertionError("a batch waits for its sync only")

    async def _write(self, items: Sequence[Item]) -> None:
        """Commit one batch: records first, so that a flow comes after its decision."""
        recorder = self.recorder
        if recorder.searched or recorder.waiting:
            items = [*recorder.take_searched(), *items, *recorder.take_waiting()]
        pending: list[Pending] = []
        flows: list[Flow] = []
        lines: list[bytes] = []
        for item in items:
            if isinstance(item, Pending):
                pending.append(item)
            elif isinstance(item, Flow):
                flows.append(item)
            else:
                lines.append(item)
        first = NOT_RECORDED
        try:
            if self.full is not None:
                _fail(pending, self.full)
                pending = []
            programs = recorder.programs
            if programs is not None:
                pending = self._find_programs(programs, pending)
            if pending:
                first = self._append(pending)
                if self._sync == "always":
                    await self._checkpointer.sync_batch()
            else:
                first = 0
            if flows:
                self._append_flows(flows)
                flows = []
            if lines or programs is not None:
                self._append_processes(programs, lines, pending, first)
        except OSError as error:
            self.totals.lost_flows += len(flows)
            self._failed(pending, error, recorded=first != NOT_RECORDED)
            if first == NOT_RECORDED:
                return
        except BaseException:
            _fail(pending, AuditLost("the audit log can't be written: the writer was cancelled"))
            raise
        for sequence, item in enumerate(pending, first):
            if item.found is not None:
                for observer in self.program_observers:
                    observer(sequence, item.found)
            for observe in self.observers:
                observe(sequence, item.payload)
            item.settle(sequence)

    def _find_programs(self, programs: FindsPrograms, pending: list[Pending]) -> list[Pending]:
        """Find who holds the sockets of a batch, before any of its records is committed.

        Returns those that can be committed now. The others come with a later batch; their
        producers wait.
        """
        asked = [
            (item, item.origin)
            for item in pending
            if item.origin is not None and item.found is None
        ]
        if not asked:
            return pending
        later = set()
        for (item, origin), found in zip(
            asked, programs.find([origin for _, origin in asked]), strict=True
        ):
            if isinstance(found, Sought):
                later.add(item)
                self._searching.add(item)
                programs.search(found, partial(self._searched, programs, item))
            else:
                item.found = found
                # Datagrams are answered one after the other: none waits for a thread.
                if not isinstance(origin, Endpoints) or origin.protocol == "tcp":
                    item.described = programs.described(found)
        return [item for item in pending if item not in later] if later else pending

    def _searched(self, programs: FindsPrograms, item: Pending, found: Found) -> None:
        if item not in self._searching:  # the writer has ended
            return
        self._searching.discard(item)
        item.found, item.described = found, programs.described(found)
        self.recorder.commit_searched(item)

    def _append_processes(
        self,
        programs: FindsPrograms | None,
        lines: list[bytes],
        pending: Sequence[Pending],
        first: int,
    ) -> None:
        if programs is not None:
            for sequence, item in enumerate(pending, first):
                if item.found is not None:
                    lines.append(programs.lines(sequence, item.found))
        data = b"".join(lines)
        if data:
            with self.watchdog:
                self.files.processes.append(data, last=self.full is not None)

    def _append(self, pending: Sequence[Pending]) -> int:
        """Append the gaps and then `pending`; return the sequence of the first of `pending`."""
        payloads = [item.payload for item in pending]
        gaps = 0
        if self.totals.lost_reasons or self.recorder.lost_to_full_queue:
            payloads[:0] = self._gaps()
            gaps = len(payloads) - len(pending)
        first = self._append_payloads(payloads)
        self.totals.add(payloads)
        if self.observers:
            self._tell_observers(first, payloads[:gaps])
            for item, payload in zip(pending, payloads[gaps:], strict=True):
                item.payload = payload
        return first + gaps

    def _append_payloads(self, payloads: list[Payload], *, last: bool = False) -> int:
        """Append records, gaps among them; a long one is shortened, in `payloads` as well."""
        encoded = encode_payloads(payloads)
        if max(map(len, encoded)) > SHORT_RECORD:
            for index, data in enumerate(encoded):
                if len(data) > SHORT_RECORD:
                    payloads[index] = bounded_payload(payloads[index])
                    encoded[index] = encode_payload(payloads[index])
        if not last:
            self.files.hold_for_seal(sum(map(len, encoded)), len(encoded))
        with self.watchdog:
            first = self.files.log.append(encoded, last=last)
        if self.totals.lost_reasons:
            self.totals.lost_reasons.clear()
        return first

    def _append_flows(self, flows: Sequence[Flow]) -> None:
        lines = encode_flows(flows)
        if max(map(len, lines)) > SHORT_RECORD:
            for index, line in enumerate(lines):
                if len(line) > SHORT_RECORD:
                    lines[index] = encode_flow(bounded_struct(flows[index]))
        data = b"".join(lines)
        files = self.files
        with self.watchdog:
            files.flows.append(data, last=self.full is not None)
        files.flows_sha256.update(data)

    def _tell_observers(self, first: int, payloads: Sequence[Payload]) -> None:
        for sequence, payload in enumerate(payloads, first):
            for observe in self.observers:
                observe(sequence, payload)

    def _gaps(self) -> list[Network]:
        """Return the gap records for the events lost since the last record."""
        full = self.recorder.lost_to_full_queue
        if full:
            self.recorder.lost_to_full_queue = 0
            self._count_lost(QUEUE_FULL, full)
        reasons = self.totals.lost_reasons.items()
        return [gap_record(count, reason, unix_ms()) for reason, count in reasons]

    def _count_lost(self, reason: str, count: int) -> None:
        self.totals.lost += count
        reasons = self.totals.lost_reasons
        reasons[reason] = reasons.get(reason, 0) + count

    def _failed(self, pending: Sequence[Pending], error: OSError, *, recorded: bool) -> None:
        """A write failed: strict mode ends here, best-effort counts and continues.

        `recorded`: the records are in the file; their sync or a flow line failed.
        """
        text = f"{error.strerror or error}"
        if self._mode == "strict":
            lost = self._lost(error)
            _fail(pending, lost)
            if not isinstance(error, NoRoom):
                raise lost from error
            # The log is whole, and the space for its end is reserved: it can still be sealed.
            self.full = self.full or lost
            self.is_full.set()
            return
        self._failures += 1
        if not recorded:
            self._count_lost(text, len(pending))
            for item in pending:
                item.settle(NOT_RECORDED)
        if isinstance(error, SyncFailed):
            if not self._unsealable:
                self._unsealable = True
                self._warn(f"audit: {text}: the session goes on, but its log will not be sealed")
            return
        if self._failures & (self._failures - 1) == 0:  # 1, 2, 4, 8 ...: no flood of warnings
            self._warn(f"audit: events lost so far: {self.totals.lost} ({text})")

    def _sync_failed(self, error: OSError) -> None:
        self._failed([], error, recorded=True)

    def _lost(self, error: OSError) -> AuditLost:
        text = f"{error.strerror or error}"
        return AuditLost(f"the audit log can't be written: {text}", hint=_hint(error))


def _hint(error: OSError) -> str:
    hint: str | None = getattr(error, "hint", None)  # of a signer that failed
    if hint is not None:
        return hint
    if error.errno == errno.EFBIG:
        return "the largest size of a file is reached (`ulimit -f`): raise it for nono-trio"
    if error.errno in _NO_ROOM:
        return "free the disk; `--audit-mode best-effort` goes on without the lost records"
    return "something changed the log or its disk underneath: what was recorded may not be whole"


def _fail(items: Sequence[Item], error: AuditLost) -> None:
    for item in items:
        if isinstance(item, Pending):
            item.settle(AuditLost(error.message, hint=error.hint))


def _first(group: BaseExceptionGroup[AuditLost]) -> AuditLost:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("AuditLost", error)
