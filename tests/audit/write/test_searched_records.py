"""Records whose program takes long to find: each waits alone, and none is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from log_events import ENDED, denied

from nono_trio.audit.write.chained_log import AppendFile
from nono_trio.audit.write.recorder import DESCRIBED_SECONDS
from nono_trio.audit.write.session_files import LogFiles
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.processes import GONE, UNKNOWN, Found, Sought
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.errors import AuditLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nono_trio.core.log.processes import RecordOrigin

SLOW = Endpoints("tcp", "127.0.0.1", 1, "127.0.0.1", 80)
QUICK = Endpoints("tcp", "127.0.0.1", 2, "127.0.0.1", 80)


class Programs:
    """Knows at once that QUICK is gone, and looks longer for SLOW until a test tells."""

    def __init__(self, *, tells_at_once: bool = False, holders: int = 0) -> None:
        self.tell: list[Callable[[Found], None]] = []
        self._tells_at_once = tells_at_once
        self.holders = [trio.Event() for _ in range(holders)]

    def find(self, origins: Sequence[RecordOrigin]) -> list[Found | Sought]:
        return [Sought(SLOW, 7) if origin is SLOW else GONE for origin in origins]

    def search(self, sought: Sought, tell: Callable[[Found], None]) -> None:
        assert sought == Sought(SLOW, 7)
        if self._tells_at_once:
            tell(UNKNOWN)
        else:
            self.tell.append(tell)

    def described(self, found: Found) -> trio.Event | None:
        return next((event for event in self.holders if not event.is_set()), None)

    def lines(self, sequence: int, found: Found) -> bytes:
        return found.lines(sequence)


def make(directory: Path, programs: Programs) -> Writer:
    writer = Writer(
        LogFiles(directory), mode="strict", sync="never", queue=8, warn=lambda _text: None
    )
    writer.recorder.programs = programs
    writer.ended = ENDED
    return writer


def written(directory: Path) -> tuple[list[str], list[tuple[int, str]]]:
    """The targets in their order, and sequence and state of each line."""
    log = (directory / "audit-events.ndjson").read_text().splitlines()
    events = [json.loads(line)["event"] for line in log]
    lines = map(json.loads, (directory / "processes.ndjson").read_text().splitlines())
    return (
        [event["event"]["target"] for event in events if event["type"] == "network"],
        [(line["sequence"], line["state"]) for line in lines],
    )


async def test_only_the_record_in_question_waits(tmp_path: Path) -> None:
    programs = Programs()
    writer = make(tmp_path, programs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            async with trio.open_nursery() as producers:
                producers.start_soon(recorder.record, denied("slow.test"), SLOW)
                await trio.testing.wait_all_tasks_blocked()
                assert await recorder.record(denied("quick.test"), QUICK) == 0
                assert written(tmp_path) == (["quick.test"], [(0, "gone")])
                (tell,) = programs.tell
                tell(UNKNOWN)
    assert written(tmp_path) == (["quick.test", "slow.test"], [(0, "gone"), (1, "unknown")])


async def test_the_answer_waits_for_the_arguments_of_every_holder(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    programs = Programs(holders=3)
    writer = make(tmp_path, programs)
    answered = []

    async def produce() -> None:
        answered.append(await writer.recorder.record(denied("quick.test"), QUICK))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder:
            nursery.start_soon(produce)
            for event in programs.holders:
                await trio.testing.wait_all_tasks_blocked()
                assert answered == []
                event.set()
            await trio.testing.wait_all_tasks_blocked()
            assert answered == [0]
            programs.holders.append(trio.Event())  # one that hangs
            began = trio.current_time()
            assert await writer.recorder.record(denied("quick.test"), QUICK) == 1
            assert trio.current_time() - began == pytest.approx(DESCRIBED_SECONDS)


async def test_what_is_told_at_once_is_recorded_once(tmp_path: Path) -> None:
    writer = make(tmp_path, Programs(tells_at_once=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            assert await recorder.record(denied("slow.test"), SLOW) == 0
    assert written(tmp_path) == (["slow.test"], [(0, "unknown")])


async def test_the_end_of_the_session_records_what_is_still_looked_for(tmp_path: Path) -> None:
    """The producer was cancelled: its record may be in the log, and it is."""
    programs = Programs()
    writer = make(tmp_path, programs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder, trio.CancelScope() as scope:
            async with trio.open_nursery() as producers:
                producers.start_soon(recorder.record, denied("slow.test"), SLOW)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert written(tmp_path) == (["slow.test"], [(0, "unknown")])
    programs.tell[0](GONE)  # too late, and no error


async def test_a_log_that_fails_meanwhile_fails_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs()
    writer = make(tmp_path, programs)
    lost = []

    async def record(target: str, origin: Endpoints) -> None:
        with pytest.raises(AuditLost):
            await writer.recorder.record(denied(target), origin)
        lost.append(target)

    async def write() -> None:
        with pytest.raises(AuditLost):
            await writer.run()

    def fail(*_: object) -> int:
        raise OSError(5, "no disk")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(record, "slow.test", SLOW)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(AppendFile, "write", fail)
        nursery.start_soon(record, "quick.test", QUICK)
    assert sorted(lost) == ["quick.test", "slow.test"]
