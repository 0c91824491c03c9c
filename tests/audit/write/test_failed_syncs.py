"""Disks that lose what they took: after a failed sync nothing vouches for the log any more."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from log_events import ENDED, denied

from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import checkpointer
from nono_trio.audit.write.chained_log import SyncFailed
from nono_trio.audit.write.session_record import SessionFacts, SessionRecord
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.events import Flow, SessionStarted
from nono_trio.core.log.policy_json import SessionPolicy
from nono_trio.errors import AuditLost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nono_trio.audit.write.chained_log import AppendFile

BOUND = 60.0
FACTS = SessionFacts(["true"], SessionPolicy(audit_mode="best-effort", working_directory="/"))


def broken(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class Once:
    """A disk whose n-th sync fails; the kernel then forgets, and the next ones succeed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.number:
            broken()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionRecord:
    monkeypatch.setattr(checkpointer, "SYNC_SECONDS", 0.01)
    return SessionRecord(tmp_path / "audit", FACTS)


def writer_of(record: SessionRecord, mode: str, sync: str, warn: Callable[[str], None]) -> Writer:
    writer = Writer(record.files, mode=mode, sync=sync, queue=64, warn=warn)  # type: ignore[arg-type]
    writer.summarise = record.summarise
    return writer


def file_of(record: SessionRecord, name: str) -> AppendFile:
    return {
        "log": record.files.log.file,
        "checkpoints": record.files.checkpoints,
        "flows": record.files.flows,
    }[name]


async def write(record: SessionRecord, writer: Writer, until: Callable[[], bool]) -> None:
    """A session of a few records, each with a checkpoint of its own, its end in the log."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with writer.recorder as recorder:
            await recorder.record_payload(
                SessionStarted(started=record.started, command=record.command)
            )
            await recorder.record_payload(record.policy_record)
            with trio.fail_after(60):
                while not until():
                    sequence = await recorder.record(denied("a.test"))
                    await trio.sleep(0.005)
            recorder.record_flow(
                Flow(
                    sequence=sequence,
                    target="a.test",
                    opened_unix_ms=1,
                    duration_ms=2,
                    bytes_up=3,
                    bytes_down=4,
                    closed_by="client",
                )
            )
            writer.ended = ENDED


@pytest.mark.parametrize("sync", ["interval", "always"])
@pytest.mark.parametrize("name", ["log", "checkpoints"])
async def test_best_effort_goes_on_but_is_never_sealed(
    record: SessionRecord, name: str, sync: str
) -> None:
    """The third sync fails, all later ones succeed: exit 4, `crashed`, no checkpoint after it."""
    warnings: list[str] = []
    flush = Once(3)
    file_of(record, name).flush = flush  # type: ignore[method-assign]
    writer = writer_of(record, "best-effort", sync, warnings.append)
    await write(record, writer, lambda: bool(warnings) and writer.files.log.sequence > 8)
    checkpoints = (record.directory / "checkpoints.ndjson").read_bytes()
    assert checkpoints.count(b"\n") == (2 if name == "log" else 3)
    with pytest.raises(SyncFailed, match="an earlier sync failed: Input/output error"):
        record.seal(ENDED, writer.totals)
    assert (record.directory / "checkpoints.ndjson").read_bytes() == checkpoints
    assert not (record.directory.parent / "ledger.ndjson").exists()
    record.files.close()
    answer = verify(record.directory)
    assert answer.verdict in ("crashed", "open")
    assert len(warnings) == 1
    assert "will not be sealed" in warnings[0]
    assert flush.calls == 3


async def test_strict_ends_with_the_first(record: SessionRecord) -> None:
    record.files.log.file.flush = Once(2)  # type: ignore[method-assign]
    writer = writer_of(record, "strict", "interval", lambda _text: None)
    with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                started = SessionStarted(started=record.started, command=record.command)
                await recorder.record_payload(started)
                with trio.fail_after(60):
                    while True:
                        await trio.sleep(0.01)
                        await recorder.record(denied("a.test"))
    record.summarise(writer.totals, writer.files.log.sequence + 2)
    with pytest.raises(SyncFailed):
        record.seal(ENDED, writer.totals)


async def test_a_record_whose_sync_failed_is_counted_because_it_is_in_the_log(
    record: SessionRecord,
) -> None:
    record.files.log.file.flush = Once(3)  # type: ignore[method-assign]
    writer = writer_of(record, "strict", "always", lambda _text: None)
    with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                for _ in range(2):
                    await recorder.record(denied("a.test"))
                with pytest.raises(AuditLost):
                    await recorder.record(denied("failed.test"))
    log = (record.directory / "audit-events.ndjson").read_bytes()
    assert (log.count(b"failed.test"), log.count(b"\n")) == (2, 3)
    assert (writer.totals.denied, writer.totals.attempts.denied) == (3, 3)


async def test_flows_that_fail_to_sync_leave_the_log_without_an_end(record: SessionRecord) -> None:
    """The summary would bind bytes that may be gone: `crashed`, whatever the audit mode."""
    record.files.flows.flush = Once(1)  # type: ignore[method-assign]
    writer = writer_of(record, "best-effort", "never", lambda _text: None)
    with pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        await write(record, writer, lambda: writer.files.log.sequence > 3)
    assert b"session_ended" not in (record.directory / "audit-events.ndjson").read_bytes()
    assert (record.directory / "checkpoints.ndjson").read_bytes() == b""
    assert not (record.directory / "summary.json").exists()
    record.files.close()
    assert verify(record.directory).verdict in ("crashed", "open")


@pytest.mark.parametrize("name", ["log", "checkpoints"])
async def test_a_sync_that_fails_at_the_seal(record: SessionRecord, name: str) -> None:
    writer = writer_of(record, "best-effort", "never", lambda _text: None)
    await write(record, writer, lambda: writer.files.log.sequence > 3)
    file_of(record, name).flush = Once(1)  # type: ignore[method-assign]
    with pytest.raises(SyncFailed):
        record.seal(ENDED, writer.totals)
    with pytest.raises(SyncFailed):
        record.seal(ENDED, writer.totals)
    assert not (record.directory.parent / "ledger.ndjson").exists()
    if name != "checkpoints":
        assert (record.directory / "checkpoints.ndjson").read_bytes() == b""


@pytest.mark.parametrize("name", ["checkpoints.ndjson", "flows.ndjson"])
@pytest.mark.parametrize("how", ["deleted", "replaced", "cut"])
async def test_any_file_of_the_log_that_is_taken_away_ends_a_strict_session(
    record: SessionRecord, name: str, how: str
) -> None:
    writer = writer_of(record, "strict", "interval", lambda _text: None)
    path = record.directory / name

    def take() -> None:
        if how == "cut":
            os.truncate(path, 0)
            return
        path.unlink()
        if how == "replaced":
            path.touch()

    with trio.fail_after(60), pytest.RaisesGroup(AuditLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                await recorder.record(denied("a.test"))
                record.files.flows.append(b"{}\n")
                while not path.read_bytes():  # noqa: ASYNC110  (another thread writes it)
                    await trio.sleep(0.005)
                take()
                await trio.sleep_forever()
    with pytest.raises(OSError, match="underneath"):
        record.summarise(writer.totals, writer.files.log.sequence + 2)
    assert not (record.directory / "summary.json").exists()


def test_a_session_that_cannot_start_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        SessionRecord(tmp_path / "audit", FACTS)
    monkeypatch.undo()
    assert list((tmp_path / "audit").iterdir()) == []


def test_files_are_closed_once_no_thread_works_with_them(record: SessionRecord) -> None:
    """Closed before, a sync that hung would go on with whatever has the same descriptor then."""
    files = record.files
    descriptor = files.log.file.descriptor
    with files.in_use():
        files.close()
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with pytest.raises(OSError, match="has closed its files"), files.in_use():
        pass
    files.close()


def test_nobody_waits_for_a_disk_that_hangs_as_the_files_close(
    record: SessionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop closes them too, after the deadline of a seal whose thread hangs there."""
    files, hangs, answers = record.files, threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        answers.wait(2 * BOUND)

    monkeypatch.setattr(files.log.file, "close", hang)
    sealing = threading.Thread(target=files.close)
    sealing.start()
    assert hangs.wait(BOUND)
    again = threading.Thread(target=files.close, daemon=True)
    again.start()
    again.join(BOUND)
    was_kept = again.is_alive()
    answers.set()
    sealing.join(BOUND)
    monkeypatch.undo()
    files.log.file.close()
    assert not was_kept
