"""Records of steps are committed right after them, and the log is as by the channel alone."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import ENDED, denied, flow
from steps_guard import no_task_in_steps

from nono_trio.audit.write.chained_log import AppendFile, ChainedLog
from nono_trio.audit.write.record_queue import MOST_TAKEN, RecordQueue
from nono_trio.audit.write.recorder import Pending
from nono_trio.audit.write.session_files import LogFiles
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import LOST_TARGET
from nono_trio.core.log.processes import UNKNOWN, Sought
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.errors import AuditLost
from nono_trio.steps import StepQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nono_trio.audit.write.recorder import AuditMode, AuditSync
    from nono_trio.core.log.processes import Found

_Item = TypeVar("_Item")
BOUND = 60
SLOW = Endpoints("tcp", "127.0.0.1", 1, "127.0.0.1", 80)


class Producer(NamedTuple):
    """Records so many decisions, one after the other, each with its flow."""

    in_step: bool
    records: int


class Turn(NamedTuple):
    """Producers that begin at once, and then so many turns of all other tasks."""

    producers: list[Producer]
    others: int


class Case(NamedTuple):
    mode: AuditMode = "strict"
    fails_at: int = 0  # a write of the log, from 1; 0 for none
    cancelled_at: int | None = None  # the turn before which the writer is cancelled


class FailingFile(AppendFile):
    fails_at = 0

    def write(self, data: memoryview) -> int:
        self.fails_at -= 1
        if self.fails_at == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(data)


class Session:
    """A writer and a dispatcher's steps; `put` is the order of the queue, `answers` what producers
    got."""

    def __init__(self, directory: Path, case: Case, sync: AuditSync = "never") -> None:
        self.directory = directory
        self.writer = Writer(
            LogFiles(directory), mode=case.mode, sync=sync, queue=2000, warn=lambda _: None
        )
        self.writer.files.log.file.close()
        (directory / "audit-events.ndjson").unlink()
        file = FailingFile(directory / "audit-events.ndjson")
        file.fails_at = case.fails_at
        self.writer.files.log = ChainedLog(file)
        self.writing = trio.CancelScope()
        self.has_failed = False
        self.steps = StepQueue()
        self.put: list[str] = []
        self.answers: dict[str, int | AuditLost] = {}

    async def write(self) -> None:
        try:
            with self.writing:
                await self.writer.run()
        except* AuditLost:
            self.has_failed = True

    async def produce(self, *names: str, origin: Endpoints | None = None) -> None:
        for name in names:
            self.put.append(name)
            try:
                sequence = await self.writer.recorder.record(denied(name), origin)
            except AuditLost as lost:
                self.answers[name] = lost
                return
            self.answers[name] = sequence
            self.writer.recorder.record_flow(flow(sequence))

    async def run(self, turns: Sequence[Turn], cancelled_at: int | None) -> None:
        with trio.fail_after(BOUND), no_task_in_steps():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.write)
                with self.writer.recorder:
                    async with trio.open_nursery() as stepping:
                        stepping.start_soon(self.steps.run)
                        async with trio.open_nursery() as producers:
                            for number, turn in enumerate(turns):
                                if number == cancelled_at:
                                    self.writing.cancel()
                                await self._take(turn, number, producers)
                            while len(self.steps):
                                await trio.lowlevel.checkpoint()
                        stepping.cancel_scope.cancel()
                    self.writer.ended = ENDED

    async def _take(self, turn: Turn, number: int, nursery: trio.Nursery) -> None:
        for index, (in_step, records) in enumerate(turn.producers):
            names = [f"{number}-{index}-{one}.test" for one in range(records)]
            if in_step:
                self.steps.start(self.produce(*names), nursery)
            else:
                nursery.start_soon(self.produce, *names)
        self.steps.run_due()
        for _ in range(turn.others):
            await trio.lowlevel.checkpoint()

    def close(self) -> tuple[bytes, list[str | None], list[int]]:
        """The log, the targets of its records, and the sequences of the flows."""
        self.writer.files.close()
        log = (self.directory / "audit-events.ndjson").read_bytes()
        events = [json.loads(line)["event"] for line in log.splitlines()]
        targets = [one["event"]["target"] if "event" in one else None for one in events]
        flows = (self.directory / "flows.ndjson").read_bytes().splitlines()
        return log, targets, [json.loads(line)["sequence"] for line in flows]


producers = st.builds(Producer, st.booleans(), st.integers(1, 3))
turns = st.builds(Turn, st.lists(producers, max_size=4), st.integers(0, 3))
cases = st.builds(
    Case,
    st.sampled_from(["strict", "best-effort"]),
    st.integers(0, 6),
    st.none() | st.integers(0, 4),
)


@settings(max_examples=60)
@given(st.lists(turns, min_size=1, max_size=5), cases)
def test_the_log_is_in_the_order_of_the_queue_and_each_producer_has_its_answer(
    tmp_path_factory: pytest.TempPathFactory, turns: list[Turn], case: Case
) -> None:
    session = Session(tmp_path_factory.mktemp("mixed"), case)
    trio.run(session.run, turns, case.cancelled_at)
    log, targets, flows = session.close()
    totals, answers = session.writer.totals, session.answers
    assert answers.keys() == set(session.put)
    kept = [name for name in session.put if answers[name] in range(len(targets))]
    assert [one for one in targets if one not in (LOST_TARGET, None)] == kept
    assert all(targets[answers[name]] == name for name in kept)  # type: ignore[index]
    has_ended = session.has_failed or session.writing.cancelled_caught
    if not has_ended:
        assert len(kept) + totals.lost == len(session.put)
        assert len(flows) + totals.lost_flows == len(kept)
    elif case.mode == "strict":
        assert kept == session.put[: len(kept)]
    if not totals.lost:
        alone = by_the_channel_alone(tmp_path_factory.mktemp("alone"), kept, is_whole=not has_ended)
        assert log == alone


def by_the_channel_alone(directory: Path, names: list[str], *, is_whole: bool) -> bytes:
    """The log of the same decisions from one task."""
    session = Session(directory, Case())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.write)
            with session.writer.recorder:
                await session.produce(*names)
                session.writer.ended = ENDED if is_whole else None

    trio.run(main)
    return session.close()[0]


@settings(max_examples=60)
@given(st.integers(1, 4), st.lists(turns, min_size=1, max_size=6))
def test_each_item_is_taken_once_whether_it_waited_for_space_or_not(
    size: int, turns: list[Turn]
) -> None:
    put: list[str] = []
    taken: list[str] = []
    queue = RecordQueue(size, taken.extend)
    steps = StepQueue()

    async def put_in(*names: str) -> None:
        put.extend(name for name in names if queue.put(name))

    async def put_slowly(*names: str) -> None:
        for name in names:
            await queue.put_slowly(name)
            put.append(name)

    async def main() -> None:
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_take_until_closed, queue, taken)
                async with trio.open_nursery() as producers:
                    for number, (begun, others) in enumerate(turns):
                        for index, (in_step, count) in enumerate(begun):
                            names = [f"{number}-{index}-{one}" for one in range(count)]
                            if in_step:
                                steps.start(put_in(*names), producers)
                            else:
                                producers.start_soon(put_slowly, *names)
                        steps.run_due()
                        for _ in range(others):
                            await trio.lowlevel.checkpoint()
                queue.close_sending()

    trio.run(main)
    assert sorted(taken) == sorted(put)


def test_the_first_answer_of_a_record_counts() -> None:
    """A record whose flow could not be written has failed, although it is in the log."""
    lost = AuditLost("no room")
    pending = Pending(Network(event=denied("a.test")))
    pending.settle(lost)
    pending.settle(3)
    assert pending.answer is lost


def start(session: Session, nursery: trio.Nursery, *names: str) -> None:
    """Run a step for each producer, once."""
    for name in names:
        session.steps.start(session.produce(name), nursery)
    session.steps.run_due()


async def test_steps_go_on_at_once_after_one_write_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nono_trio.steps.perf_counter", lambda: 0.0)  # the time is never up
    session = Session(tmp_path, Case())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write)
        with session.writer.recorder, no_task_in_steps():
            await trio.testing.wait_all_tasks_blocked()
            session.writer.files.log.file.fails_at = 2  # type: ignore[attr-defined]
            start(session, nursery, "a.test", "b.test", "c.test")
            assert session.answers == {"a.test": 0, "b.test": 1, "c.test": 2}
            assert len(session.steps) == 0
    assert session.close()[1:] == (["a.test", "b.test", "c.test"], [0, 1, 2])
    assert session.writer.totals.peak_queue == 3


@pytest.mark.parametrize("why", ["synced", "busy", "cancelled"])
async def test_a_writer_at_work_is_left_its_turn(tmp_path: Path, why: str) -> None:
    session = Session(tmp_path, Case(), "always" if why == "synced" else "never")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write)
        with trio.fail_after(BOUND), session.writer.recorder, no_task_in_steps():
            await trio.testing.wait_all_tasks_blocked()
            if why == "busy":
                session.writer.recorder.record_lines(b"{}\n")
            elif why == "cancelled":
                session.writing.cancel()
            start(session, nursery, "a.test")
            assert session.answers == {}
            while not session.answers:
                await trio.lowlevel.checkpoint()
                session.steps.run_due()
    (answer,) = session.answers.values()
    assert isinstance(answer, AuditLost) if why == "cancelled" else answer == 0
    session.close()


async def test_nothing_is_written_after_a_write_that_failed(tmp_path: Path) -> None:
    session = Session(tmp_path, Case(fails_at=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write)
        with session.writer.recorder, no_task_in_steps():
            await trio.testing.wait_all_tasks_blocked()
            for name in ("a.test", "b.test"):
                start(session, nursery, name)
            await trio.testing.wait_all_tasks_blocked()
            session.steps.run_due()
    assert session.has_failed
    assert [type(one) for one in session.answers.values()] == [AuditLost, AuditLost]
    assert session.close()[0] == b""


class ToldAtOnce:
    """Programs that are looked for, and told of before the search returns."""

    def find(self, origins: Sequence[object]) -> list[Sought]:
        return [Sought(SLOW, 7) for _ in origins]

    def search(self, _sought: Sought, tell: Callable[[Found], None]) -> None:
        tell(UNKNOWN)

    def described(self, _found: Found) -> None:
        return None

    def lines(self, sequence: int, found: Found) -> bytes:
        return found.lines(sequence)


async def test_a_failure_is_raised_although_the_writer_was_woken_meanwhile(tmp_path: Path) -> None:
    session = Session(tmp_path, Case(fails_at=1))
    session.writer.recorder.programs = ToldAtOnce()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write)
        with trio.fail_after(BOUND), session.writer.recorder, no_task_in_steps():
            await trio.testing.wait_all_tasks_blocked()
            session.steps.start(session.produce("searched.test", origin=SLOW), nursery)
            start(session, nursery, "a.test")  # its write fails
            while len(session.answers) < 2:
                await trio.lowlevel.checkpoint()
                session.steps.run_due()
    assert session.has_failed
    assert [type(one) for one in session.answers.values()] == [AuditLost, AuditLost]
    assert session.close()[0] == b""


async def test_what_one_batch_does_not_take_is_the_next(tmp_path: Path) -> None:
    session, count = Session(tmp_path, Case()), 2 * MOST_TAKEN

    async def many() -> None:
        for number in range(count):
            session.writer.recorder.record_flow(flow(number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write)
        with session.writer.recorder:
            await trio.testing.wait_all_tasks_blocked()
            session.steps.start(many(), nursery)
            session.steps.run_due()
            await trio.testing.wait_all_tasks_blocked()
            lines = (tmp_path / "flows.ndjson").read_bytes().splitlines()
            assert [json.loads(line)["sequence"] for line in lines] == [*range(count)]
    session.close()


async def test_a_wake_without_anything_to_take_ends_nothing() -> None:
    written: list[bytes] = []
    queue = RecordQueue(2 * MOST_TAKEN, written.extend)
    steps = StepQueue()

    async def full_batch() -> None:
        for _ in range(MOST_TAKEN):
            queue.put(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_take_until_closed, queue, written)
        await trio.testing.wait_all_tasks_blocked()
        steps.start(full_batch(), nursery)
        steps.run_due()
        await trio.testing.wait_all_tasks_blocked()
        queue.put(b"last")
        await trio.testing.wait_all_tasks_blocked()
        queue.close_sending()
    assert written == [b"x"] * MOST_TAKEN + [b"last"]


async def _take_until_closed(queue: RecordQueue[_Item], taken: list[_Item]) -> None:
    while items := await queue.next_batch():
        taken.extend(items)
