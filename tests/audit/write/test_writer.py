"""The writer: order, batches, faults at every append, cancellation, loss that is counted."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from log_events import ENDED, denied, flow

from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import checkpointer
from nono_trio.audit.write.chained_log import AppendFile, ChainedLog
from nono_trio.audit.write.record_queue import RecordQueue
from nono_trio.audit.write.recorder import NOT_RECORDED, QUEUE_SECONDS, Recorder
from nono_trio.audit.write.session_files import LogFiles
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.events import Flow, SessionStarted
from nono_trio.core.log.notices import LOST_TARGET
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from nono_trio.audit.write.recorder import Item


def make_writer(
    directory: Path, *, mode: str = "strict", sync: str = "interval", queue: int = 64
) -> Writer:
    return Writer(
        LogFiles(directory),
        mode=mode,  # type: ignore[arg-type]  # parametrised by name
        sync=sync,  # type: ignore[arg-type]
        queue=queue,
        warn=lambda _text: None,
    )


def records(directory: Path) -> list[dict[str, object]]:
    return [
        json.loads(line) for line in (directory / "audit-events.ndjson").read_bytes().splitlines()
    ]


class FaultyFile(AppendFile):
    """Fails the writes whose numbers `faults` names; writes at most `most` bytes a call."""

    def __init__(self, path: Path, faults: Callable[[int], bool], most: int = 1 << 30) -> None:
        super().__init__(path)
        self.calls = 0
        self._faults = faults
        self._most = most

    def write(self, data: memoryview) -> int:
        self.calls += 1
        if self._faults(self.calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data[: self._most])


async def test_file_order_is_queue_order_and_every_producer_gets_its_sequence(
    tmp_path: Path,
) -> None:
    writer = make_writer(tmp_path)
    got: dict[str, int] = {}

    async def produce(recorder: Recorder, name: str) -> None:
        got[name] = await recorder.record(denied(name))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            async with trio.open_nursery() as producers:
                for number in range(200):
                    producers.start_soon(produce, recorder, f"host-{number}.test")
            writer.ended = ENDED
    written = records(tmp_path)
    assert len(written) == 201
    assert written[-1]["event"]["type"] == "session_ended"  # type: ignore[index]
    for name, sequence in got.items():
        assert written[sequence]["event"]["event"]["target"] == name  # type: ignore[index]
    assert writer.totals.denied == 200


async def test_record_returns_only_after_the_write(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            for number in range(5):
                sequence = await recorder.record(denied("a.test"))
                assert sequence == number
                assert len(records(tmp_path)) == number + 1


async def test_a_cancelled_producer_leaves_the_writer_working(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            with trio.CancelScope() as scope:
                scope.cancel()
                await recorder.record(denied("cancelled.test"))
            assert scope.cancelled_caught
            assert await recorder.record(denied("next.test")) >= 0
    assert records(tmp_path)[-1]["event"]["event"]["target"] == "next.test"  # type: ignore[index]


async def test_nothing_after_the_seal(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            writer.ended = ENDED
    with pytest.raises(SessionSealed):
        await recorder.record(denied("late.test"))
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize("fault_at", range(1, 8))
@pytest.mark.parametrize("most", [1 << 30, 100])
async def test_strict_fails_closed_at_every_write(tmp_path: Path, fault_at: int, most: int) -> None:
    """The n-th write fails: its producers must not act, the file holds whole records only."""
    writer = make_writer(tmp_path)
    (tmp_path / "audit-events.ndjson").unlink()
    file = FaultyFile(tmp_path / "audit-events.ndjson", lambda call: call >= fault_at, most)
    writer.files.log = ChainedLog(file)
    acted = 0
    with pytest.RaisesGroup(AuditLost, AuditLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                for number in range(20):
                    await recorder.record(denied(f"host-{number}.test"))
                    acted += 1
    data = (tmp_path / "audit-events.ndjson").read_bytes()
    assert data == b"" or data.endswith(b"\n")
    assert len(records(tmp_path)) == acted == writer.files.log.sequence
    assert file.offset == len(data)
    with pytest.raises((AuditLost, SessionSealed)):
        await recorder.record(denied("after.test"))


async def test_every_producer_that_waits_is_told_when_the_log_fails(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    (tmp_path / "audit-events.ndjson").unlink()
    writer.files.log = ChainedLog(FaultyFile(tmp_path / "audit-events.ndjson", lambda _call: True))
    told = 0

    async def produce() -> None:
        nonlocal told
        try:
            await writer.recorder.record(denied("a.test"))
        except AuditLost:
            told += 1

    async with trio.open_nursery() as producers:
        for _ in range(60):
            producers.start_soon(produce)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AuditLost):
            await writer.run()
    assert told == 60


async def test_best_effort_goes_on_and_the_loss_stands_in_the_log(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, mode="best-effort")
    (tmp_path / "audit-events.ndjson").unlink()
    file = FaultyFile(tmp_path / "audit-events.ndjson", lambda call: 3 <= call <= 5)
    writer.files.log = ChainedLog(file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            got = [await recorder.record(denied(f"host-{n}.test")) for n in range(7)]
            writer.ended = ENDED
    assert got == [0, 1, NOT_RECORDED, NOT_RECORDED, NOT_RECORDED, 3, 4]
    gap = records(tmp_path)[2]["event"]["event"]  # type: ignore[index]
    assert gap["target"] == LOST_TARGET
    assert gap["reason"] == f"3 events lost: {os.strerror(errno.ENOSPC)}"
    assert writer.totals.lost == 3
    assert len(records(tmp_path)) == 6


async def test_best_effort_drops_and_counts_when_the_queue_is_full(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, mode="best-effort", queue=4)
    got: list[int] = []

    async def produce() -> None:
        got.append(await writer.recorder.record(denied("a.test")))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as producers:
            for _ in range(10):
                producers.start_soon(produce)
            await trio.testing.wait_all_tasks_blocked()  # four queued, six turned away
            nursery.start_soon(writer.run)
        writer.ended = ENDED
        writer.recorder.__exit__(None, None, None)
    assert sorted(got) == [-1, -1, -1, -1, -1, -1, 1, 2, 3, 4]
    assert records(tmp_path)[0]["event"]["event"]["reason"] == "6 events lost: queue full"  # type: ignore[index]


async def test_strict_waits_for_a_full_queue_and_then_refuses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    queue: RecordQueue[Item] = RecordQueue(1)  # it is not drained
    recorder = Recorder(queue, "strict")
    queue.put(b"full")
    before = trio.current_time()
    with pytest.raises(AuditBusy, match="stayed full"):
        await recorder.record(denied("a.test"))
    assert trio.current_time() - before == QUEUE_SECONDS
    assert queue.take() == [b"full"]
    assert queue.take() == []


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut"])
async def test_a_log_that_is_taken_away_stops_the_session(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "SYNC_SECONDS", 0.02)
    writer = make_writer(tmp_path)
    log = tmp_path / "audit-events.ndjson"
    with trio.fail_after(60), pytest.RaisesGroup(AuditLost):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                await recorder.record(denied("a.test"))
                if how == "cut":
                    os.truncate(log, 10)
                else:
                    log.unlink()
                    if how == "replaced":
                        log.write_bytes(b"")
                await trio.sleep_forever()


@pytest.mark.parametrize("sync", ["always", "interval", "never"])
async def test_checkpoints_follow_the_log(
    tmp_path: Path, sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "SYNC_SECONDS", 0.01)
    writer = make_writer(tmp_path, sync=sync)
    checkpoints = tmp_path / "checkpoints.ndjson"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                started = SessionStarted(started="2026-07-02T11:48:52Z", command=["true"])
                await recorder.record_payload(started)
                for number in range(1, 4):
                    await recorder.record(denied(f"host-{number}.test"))
                    if sync == "interval":
                        await _until(lambda: _last_count(checkpoints) == number + 1)  # noqa: B023
    lines = checkpoints.read_bytes().splitlines()
    counts = [json.loads(line)["event_count"] for line in lines]
    assert counts[-3:] == ([] if sync == "never" else [2, 3, 4])
    assert verify(tmp_path, upstream=True).verdict == "crashed"


async def _until(condition: Callable[[], bool]) -> None:
    """Another thread writes the file: look until it has; the test's deadline bounds it."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.005)


def _last_count(path: Path) -> int | None:
    lines = path.read_bytes().splitlines()
    return json.loads(lines[-1])["event_count"] if lines else None


async def test_a_failed_checkpoint_does_not_shift_the_next_segment(tmp_path: Path) -> None:
    """Best-effort: the checkpoint after one that could not be written covers both segments."""
    writer = make_writer(tmp_path, mode="best-effort", sync="always")
    (tmp_path / "checkpoints.ndjson").unlink()
    writer.files.checkpoints = FaultyFile(tmp_path / "checkpoints.ndjson", lambda call: call == 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            for number in range(3):
                assert await recorder.record(denied(f"host-{number}.test")) == number
    log = (tmp_path / "audit-events.ndjson").read_bytes()
    first, second = (
        json.loads(line) for line in (tmp_path / "checkpoints.ndjson").read_bytes().splitlines()
    )
    import xxhash

    assert first["segment_xxh3"] == xxhash.xxh3_64_hexdigest(log[: first["offset"]])
    assert second["segment_xxh3"] == xxhash.xxh3_64_hexdigest(
        log[first["offset"] : second["offset"]]
    )
    assert second["event_count"] == 3


async def test_flows_stand_behind_their_decisions(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            sequence = await recorder.record(denied("a.test"))
            for number in (sequence, NOT_RECORDED):
                recorder.record_flow(
                    Flow(
                        sequence=number,
                        target="a.test",
                        port=443,
                        address=None,
                        opened_unix_ms=1,
                        duration_ms=2,
                        bytes_up=3,
                        bytes_down=4,
                        closed_by="client",
                    )
                )
    lines = (tmp_path / "flows.ndjson").read_bytes().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [0]


async def test_every_flow_has_its_line_however_small_the_queue(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, queue=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            sequences = [await recorder.record(denied("a.test")) for _ in range(200)]
            for sequence in sequences:  # all connections end at once
                recorder.record_flow(flow(sequence))
    lines = (tmp_path / "flows.ndjson").read_bytes().splitlines()
    assert sorted(json.loads(line)["sequence"] for line in lines) == sequences
    assert (writer.totals.lost, recorder.lost_flows) == (0, 0)


async def test_flows_that_could_not_be_written_are_counted(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, mode="best-effort")
    writer.files.flows = FaultyFile(tmp_path / "other-flows.ndjson", lambda call: call == 1)
    writer.ended = ENDED
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            for _ in range(2):
                sequence = await recorder.record(denied("a.test"))
                recorder.record_flow(flow(sequence))
                await recorder.record(denied("b.test"))
    assert writer.totals.lost_flows == 1
    assert (tmp_path / "other-flows.ndjson").read_bytes().count(b"\n") == 1


@pytest.fixture
async def stuck_writer(tmp_path: Path) -> AsyncIterator[Writer]:
    """A writer whose disk never answers a sync, until the test is over."""
    import threading

    release = threading.Event()
    writer = make_writer(tmp_path, sync="always")
    writer.files.log.file.sync = lambda: release.wait(60) and None  # type: ignore[method-assign]
    yield writer
    release.set()


async def test_a_stuck_disk_does_not_outlast_the_writers_deadline(stuck_writer: Writer) -> None:
    with trio.fail_after(60):
        with trio.move_on_after(0.2) as writing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stuck_writer.run)
                with pytest.raises(AuditLost):
                    await stuck_writer.recorder.record(denied("a.test"))
        assert writing.cancelled_caught
