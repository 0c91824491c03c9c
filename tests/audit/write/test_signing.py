"""Signing beside a live writer: off the loop, and no producer waits for it."""

from __future__ import annotations

import threading

import pytest
import signed_session as signed
import trio
from log_events import ENDED, denied

from nono_trio.audit.keys.signer import SignerFailed
from nono_trio.audit.write import checkpointer
from nono_trio.audit.write.checkpoint_signer import CheckpointSigner
from nono_trio.audit.write.session_files import LogFiles
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.events import SessionStarted
from nono_trio.errors import AuditLost
from nono_trio.threads import in_thread

KEY = signed.signer()
BOUND_SECONDS = 60


class Held:
    """A signer that answers only when `free` is set, in whatever thread it is asked."""

    def __init__(self):
        self.public = KEY.public
        self.free = threading.Event()
        self.asked = threading.Event()
        self.threads = set()

    def sign_note(self, data):
        self.threads.add(threading.current_thread())
        self.asked.set()
        assert self.free.wait(BOUND_SECONDS)
        return KEY.sign_note(data)


def writer_with(directory, signer, sync, warnings=None, *, mode="strict"):
    files = LogFiles(directory)
    files.sign_with(CheckpointSigner(signer, "0123456789abcdef", strict=mode == "strict"))
    if warnings is not None:
        files.signer.warn = warnings.append
    return Writer(files, mode=mode, sync=sync, queue=64, warn=lambda _text: None)


@pytest.mark.parametrize("sync", ["interval", "always"])
async def test_no_producer_waits_for_a_signer(tmp_path, monkeypatch, sync):
    monkeypatch.setattr(checkpointer, "SYNC_SECONDS", 0.01)
    signer = Held()
    writer = writer_with(tmp_path, signer, sync)
    with trio.fail_after(BOUND_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                await recorder.record_payload(SessionStarted(started="2026-07-02", command=[]))
                await in_thread(signer.asked.wait, BOUND_SECONDS)  # it signs, and does not end
                for number in range(20):
                    assert await recorder.record(denied(f"{number}.test")) == number + 1
                signer.free.set()
                writer.ended = ENDED
    assert threading.main_thread() not in signer.threads
    assert b'"note"' in (tmp_path / "checkpoints.ndjson").read_bytes()


async def test_a_signer_that_fails_ends_a_strict_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointer, "SYNC_SECONDS", 0.01)
    signer = Held()
    signer.sign_note = failing
    writer = writer_with(tmp_path, signer, "interval")
    lost = []

    async def write():
        try:
            await writer.run()
        except AuditLost as error:
            lost.append(error)

    with trio.fail_after(BOUND_SECONDS), writer.recorder as recorder:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await recorder.record_payload(SessionStarted(started="2026-07-02", command=[]))
    assert "the signer is gone" in lost[0].message
    assert "best-effort" in lost[0].hint


async def test_a_signer_that_fails_is_told_once_in_a_while(tmp_path):
    warnings = []
    signer = Held()
    signer.sign_note = failing
    writer = writer_with(tmp_path, signer, "interval", warnings, mode="best-effort")
    for _ in range(9):
        await writer.sign_beginning()
    assert len(warnings) == 4  # after 1, 2, 4 and 8 of them
    assert b'"note"' not in (tmp_path / "checkpoints.ndjson").read_bytes()
    writer.files.close()


def failing(_data):
    raise SignerFailed("the signer is gone")
