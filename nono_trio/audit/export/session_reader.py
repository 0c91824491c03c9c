"""Reads a session's files from a position on, joined: records with their programs, then flows.

Rules of this file:
- Only whole lines count, and each record must go on from the one before it (FollowedChain).
- Memory is that of one batch, whatever the files hold. A flow comes after its record.
- The same files and position give the same lines, in a live session too, but for the program of a
  record: it is left out if its line comes later than PROGRAM_MS after the record.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeAlias

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.export.lookup import NumberedLine, decision_at, is_sane, wanted_programs
from nono_trio.audit.read.records import MAX_LINE, is_too_long, link_at, size_of
from nono_trio.audit.verify.followed_chain import FollowedChain
from nono_trio.core.export.exported import Exported, FlowLine, RecordLine
from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import (
    MALFORMED,
    Network,
    NetworkEvent,
    SessionEnded,
    decode_flow,
    decode_payload,
)
from nono_trio.core.log.notices import is_about_log
from nono_trio.errors import LogRewritten, LogUnreadable, rewritten, unreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nono_trio.audit.export.lookup import WantedPrograms
    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.processes import ProcessLine

BATCH_RECORDS: Final = 512  # what receivers take by default, and a common size of a batch
BATCH_BYTES: Final = 1024 * 1024  # of the log; a receiver's usual limit is 4 MiB or more
# A program is found within a second, or when its connection has ended.
PROGRAM_MS: Final = 3000
# Decisions that are kept for their flows. The decision of an older one is looked up in the log.
KEPT_DECISIONS: Final = 4096


# An offset of a file on any system.
Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Position(msgspec.Struct, kw_only=True, frozen=True):
    """How far a session is read: offsets in bytes, the next sequence, the last chain hash.

    `ended`: the last record was session_ended.
    """

    log: Offset = 0
    records: Offset = 0
    chain: str | None = None
    flows: Offset = 0
    processes: Offset = 0
    ended: bool = False


class Batch(msgspec.Struct, frozen=True):
    """Lines in order, and the position after them."""

    lines: Sequence[Exported]
    position: Position


class _Record(msgspec.Struct):
    sequence: int
    prev_chain: str | None
    leaf_hash: str
    chain_hash: str
    event_json: str


class _Found(NamedTuple):
    """A record that is not yet checked; `raw` is its line after the blank ones before it."""

    raw: list[bytes]
    record: _Record
    payload: Payload


_decoder = late_decoder(_Record)


class SessionReader:
    """Reads one session. `now_ms` is the clock that a record waits by for its program."""

    def __init__(
        self,
        directory: Path,
        position: Position | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.position = position or Position()
        self._directory = directory
        self._log = directory / store.LOG
        self._now_ms = now_ms
        self._chain: FollowedChain | None = None
        self._decisions: OrderedDict[int, NetworkEvent] = OrderedDict()
        self._fault: LogRewritten | None = None

    def read(self, *, live: bool, limit: int = BATCH_RECORDS) -> Batch:
        """Return the next lines, at most `limit` records and as many flows; no lines: that is all.

        `live`: the session is being written. Raises LogRewritten where the log contradicts what was
        read, after all lines before that, and LogUnreadable, also for a session that was removed.
        """
        try:
            return self._read(live=live, limit=limit)
        except LogUnreadable:
            ledger.require_not_removed(self._directory)
            raise
        except OSError as error:
            ledger.require_not_removed(self._directory)
            raise unreadable(error.filename or self._directory, error) from error

    def batches(self) -> Iterator[Batch]:
        """Yield all lines that are there now; raises what `read` raises."""
        while (batch := self.read(live=False)).lines:
            yield batch

    def _read(self, *, live: bool, limit: int) -> Batch:
        self._raise_fault()
        chain = self._checked_chain()
        found = self._next_records(limit)
        programs = self._programs_of(found)
        lines, position = self._take(found, programs, chain, live=live)
        everything = not found and not live and self._fault is None
        flows, end = self._next_flows(position.records, limit, everything=everything)
        processes = programs.offset_after(position.records - 1)
        self.position = msgspec.structs.replace(position, flows=end, processes=processes)
        if not lines and not flows:
            self._raise_fault()
            ledger.require_not_removed(self._directory)
        return Batch([*lines, *flows], self.position)

    def _take(
        self, found: Sequence[_Found], programs: WantedPrograms, chain: FollowedChain, *, live: bool
    ) -> tuple[list[RecordLine], Position]:
        """Return the lines of the records before the first that waits for its program or does not
        fit the chain, and the position after them."""
        lines: list[RecordLine] = []
        position = self.position
        for raw, record, payload in found:
            own = programs.of(record.sequence)
            if live and self._waits(payload, own):
                break
            try:
                for one in raw:
                    chain.feed(one)
            except LogRewritten as fault:
                self._fault = fault
                break
            if isinstance(payload, Network):
                self._keep(record.sequence, payload.event)
            lines.append(_line_of(record, payload, own))
            position = msgspec.structs.replace(
                position,
                log=position.log + sum(map(len, raw)),
                records=record.sequence + 1,
                chain=record.chain_hash,
                ended=isinstance(payload, SessionEnded),
            )
        return lines, position

    def _programs_of(self, found: Sequence[_Found]) -> WantedPrograms:
        last = found[-1].record.sequence if found else -1
        position, path = self.position, self._directory / store.PROCESSES
        return wanted_programs(path, position.processes, position.records, last)

    def _checked_chain(self) -> FollowedChain:
        """Return the chain, after a look at what was read last; a session that another one has
        replaced is found here."""
        if self._chain is None:
            position = self.position
            if position.log:
                link = link_at(self._log, position.log) if self._log.exists() else None
                if link is None or link[1].chain_hash != position.chain:
                    raise self._rewritten(f"record {position.records - 1} is not where it was")
            self._chain = FollowedChain(self._log, position.log)
        self._chain.check_past()
        if size_of(self._directory / store.FLOWS) < self.position.flows:
            raise self._rewritten(f"{store.FLOWS} was cut")
        return self._chain

    def _next_records(self, limit: int) -> list[_Found]:
        """Return the next records, not yet checked. A line that is no record is an error."""
        found: list[_Found] = []
        blank: list[bytes] = []
        for _, line in whole_lines(self._log, self.position.log, BATCH_BYTES):
            if b"\0" in line:  # a loss of power leaves a hole of zeros: `recover` cuts it
                break
            if not line.strip():
                blank.append(line)
                continue
            try:
                record = _decoder.decode(line)
                payload = decode_payload(record.event_json.encode())
            except MALFORMED:
                self._fault = self._rewritten("a line of it is no record")
                break
            found.append(_Found([*blank, line], record, payload))
            blank.clear()
            if len(found) >= limit:
                break
        return found

    def _waits(self, payload: object, programs: Sequence[object]) -> bool:
        """Return True for a record whose program may still be written."""
        if programs or not isinstance(payload, Network) or is_about_log(payload.event):
            return False
        age = self._now_ms() - payload.event.timestamp_unix_ms
        return 0 <= age < PROGRAM_MS and (self._directory / store.PROCESSES).exists()

    def _keep(self, sequence: int, event: NetworkEvent) -> None:
        self._decisions[sequence] = event
        if len(self._decisions) > KEPT_DECISIONS:
            self._decisions.popitem(last=False)

    def _next_flows(
        self, records: int, limit: int, *, everything: bool
    ) -> tuple[list[FlowLine], int]:
        """Return the flows whose records are read, and where to go on; with `everything`, also
        those whose record does not exist."""
        path = self._directory / store.FLOWS
        flows: list[FlowLine] = []
        end = self.position.flows
        for offset, line in whole_lines(path, end, BATCH_BYTES):
            try:
                flow = decode_flow(line)
            except MALFORMED:
                flow = None
            if flow is not None and is_sane(flow):
                if flow.sequence >= records and not everything:
                    break
                decision = self._decisions.get(flow.sequence)
                if decision is None and flow.sequence < records:
                    decision = decision_at(self._log, flow.sequence, self.position.log)
                flows.append(FlowLine(flow=flow, decision=decision))
            end = offset
            if len(flows) >= limit:
                break
        return flows, end

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _rewritten(self, what: str) -> LogRewritten:
        return rewritten(f"{self._log}: {what}", self._directory)


def _line_of(record: _Record, payload: Payload, programs: Sequence[ProcessLine]) -> RecordLine:
    return RecordLine(
        sequence=record.sequence,
        event=payload,
        event_json=record.event_json,
        prev_chain=record.prev_chain,
        leaf_hash=record.leaf_hash,
        chain_hash=record.chain_hash,
        programs=programs,
    )


def whole_lines(path: Path, start: int, most: int) -> Iterator[NumberedLine]:
    """Yield whole lines with the offset of their end, until `most` bytes have been read; none if
    there is no such file. Raises OSError."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        end = start
        while end - start < most and (line := file.readline(MAX_LINE)).endswith(b"\n"):
            end += len(line)
            yield NumberedLine(end, line)
        if end - start < most and is_too_long(line):
            raise OSError(27, "a line is longer than any of a session", str(path))
