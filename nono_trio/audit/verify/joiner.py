"""Reads a long log in parts, in this process and in others, and proves that the parts meet.

Rules of this file: the log is split at line ends. Parts are joined in order, as soon as they are
checked: each must begin with the count and the chain hash that the log before it ends with, and the
checkpoints are compared with what was joined. A part that is not good, or does not meet, is left to
the one pass of log_check.py, which names the fault. The number of parts that wait is bounded, so
memory does not grow with the log.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

from nono_trio.audit.read.records import lines
from nono_trio.audit.store import CHECKPOINTS
from nono_trio.audit.verify.chain import BadRecord
from nono_trio.audit.verify.checkpoints import parse_checkpoint
from nono_trio.audit.verify.part_worker import AHEAD, Worker, Workers, read_part
from nono_trio.audit.verify.parts import (
    LEAST_PART_BYTES,
    MAX_MARKS,
    MAX_PART_LINE,
    PART_BYTES,
    Part,
    check_part,
)
from nono_trio.audit.verify.worker_process import automatic_jobs
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.verify.evidence import Evidence
    from nono_trio.audit.verify.log_check import LogCheck
    from nono_trio.audit.verify.parts import GoodPart

ORDINARY_LINE: Final = 16 * 1024


class PartsDisagree(Exception):
    """The parts are good and meet, but the checkpoints differ: one pass must say where."""


class PartsJoiner:
    """One reading of one session's log; `jobs` processes, this one among them (None: a choice)."""

    def __init__(self, evidence: Evidence, jobs: int | None) -> None:
        self._evidence = evidence
        self._jobs = automatic_jobs(evidence.log_size) if jobs is None else jobs

    def run(self, check: LogCheck) -> None:
        """Read the log as far as it can be joined. Raises OSError, BadRecord for what `check` reads
        line by line, PartsDisagree, WorkerLost."""
        size = self._evidence.log_size
        with (
            open_regular(self._evidence.log) as file,
            Workers(self._jobs - 1, file.fileno()) as workers,
        ):
            check.read_to(size, lambda: check.may_join)
            plan = _Plan(self._evidence, file.fileno(), check, self._jobs)
            _Reading(check, plan, workers, file.fileno()).run()


class _Plan:
    """The parts of a log, in order; `next` is None at the end, and where no part can be made."""

    def __init__(self, evidence: Evidence, log: int, check: LogCheck, jobs: int) -> None:
        self._log = log
        self._shares = AHEAD * jobs if jobs > 1 else 1
        self._size = evidence.log_size
        self._begin = check.good_bytes
        self._check = check
        self._signed = check.chain.proof_tree is not None
        self._offsets = _offsets(evidence.beside(CHECKPOINTS), evidence.checkpoints_size)
        self._next_mark: int | None = next(self._offsets, None)

    def next(self) -> Part | None:
        """Return the next part."""
        # The last parts are smaller: all processes are to end at the same time.
        size = min(PART_BYTES, max(LEAST_PART_BYTES, (self._size - self._begin) // self._shares))
        end = self._line_end(self._begin + size)
        if end is None or end <= self._begin:
            return None
        marks: list[int] = []
        while self._next_mark is not None and self._next_mark <= end:
            if self._next_mark > (marks[-1] if marks else self._begin):
                marks.append(self._next_mark)
            self._next_mark = next(self._offsets, None)
            if len(marks) == MAX_MARKS:
                end = marks[-1]
                break
        # A few parts bring events that are not used: parts that wait are not counted yet.
        part = Part(self._begin, end, marks, self._signed, self._check.wants_events)
        self._begin = end
        return part

    def _line_end(self, wanted: int) -> int | None:
        """Return the end of the line with the byte before `wanted`; at the end of the log, that of
        the last whole line."""
        if wanted < self._size:
            for most in (ORDINARY_LINE, MAX_PART_LINE):
                data = os.pread(self._log, min(most, self._size - wanted + 1), wanted - 1)
                if b"\n" in data:
                    return wanted + data.index(b"\n")
            return None
        data = os.pread(self._log, self._size - self._begin, self._begin)
        return self._begin + data.rfind(b"\n") + 1


class _Pending:
    """A part that is not joined yet; `by` is its worker, None if it is checked here; `data` its
    bytes, if they are read."""

    def __init__(self, part: Part, by: Worker | None, data: bytes | None = None) -> None:
        self.part = part
        self.by = by
        self.data = data
        self.is_checked = False
        self.good: GoodPart | None = None


class _Reading:
    """The parts that wait, in the order of the log."""

    def __init__(self, check: LogCheck, plan: _Plan, workers: Workers, log: int) -> None:
        self._check = check
        self._plan = plan
        self._workers = workers
        self._log = log
        self._waiting: deque[_Pending] = deque()
        # Enough for all to have work while the first one is late.
        self._most = AHEAD * (len(workers.all) + 1) + 2

    def run(self) -> None:
        """Join until a part can't be joined, or none is left."""
        while True:
            self._hand_out()
            if self._workers.all:
                self._take_answers(wait=False)
            if self._waiting and self._waiting[0].is_checked:
                if not self._join(self._waiting.popleft()):
                    return
            elif (part := self._next()) is not None:
                self._check_here(part)
            elif self._waiting:
                self._take_answers(wait=True)
            else:
                return

    def _next(self) -> Part | None:
        return self._plan.next() if len(self._waiting) < self._most else None

    def _hand_out(self) -> None:
        for worker in self._workers.all:
            while (
                worker.is_ready
                and worker.outstanding < AHEAD
                and (part := self._next()) is not None
            ):
                worker.send(part)
                self._waiting.append(_Pending(part, worker))

    def _take_answers(self, *, wait: bool) -> None:
        self._workers.receive(wait=wait)
        for one in self._waiting:
            if one.by is not None and not one.is_checked and one.by.answers:
                one.good, one.is_checked = one.by.answers.popleft(), True

    def _check_here(self, part: Part) -> None:
        data = read_part(self._log, part)
        one = _Pending(part, None, data)
        one.good, one.is_checked = check_part(data, part), True
        self._waiting.append(one)

    def _join(self, one: _Pending) -> bool:
        check, part = self._check, one.part
        if one.good is None or not check.may_join or part.begin != check.good_bytes:
            return False
        data = read_part(self._log, part) if one.data is None else one.data
        if len(data) != part.end - part.begin:
            return False
        try:
            return check.join(one.good, data)
        except BadRecord as bad:
            raise PartsDisagree from bad


def _offsets(checkpoints: Path, size: int) -> Iterator[int]:
    """Yield the offsets of the checkpoints, up to the first line that is not a checkpoint."""
    for line in lines(checkpoints, size):
        checkpoint = parse_checkpoint(line)
        if checkpoint is None:
            return
        yield checkpoint.offset
