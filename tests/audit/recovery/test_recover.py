"""`audit recover`: every state a crash leaves is sealed, and a failure at any step is survived."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import sealed_session as made
from crashed_session import (
    ID,
    KNOWN_END,
    STATES,
    TORN,
    Fault,
    append,
    content,
    empty,
    log_payloads,
    plain,
    require_recovered,
    steps_of,
    torn,
    torn_everywhere,
    with_gap,
)

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.cli.audit import recover as recover_output
from nono_trio.core.log.session_json import completed_at, session_digest


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


states = pytest.mark.parametrize("state", STATES)


@states
def test_a_crashed_session_is_sealed(root, state):
    directory = state(root)
    assert verify(directory).verdict == "crashed"
    answer = recover(directory)
    assert (answer.outcome, answer.reason, answer.exit_code) == ("recovered", None, 0)
    assert answer.exit_code_known is (state in KNOWN_END)
    require_recovered(directory, state)


@states
def test_recovering_again_changes_nothing(root, state):
    directory = state(root)
    recover(directory)
    before = content(directory), (root / ledger.LEDGER).read_bytes()
    assert recover(directory).outcome == "sealed"
    assert (content(directory), (root / ledger.LEDGER).read_bytes()) == before


@states
def test_what_was_recorded_stands_as_it_was(root, state):
    directory = state(root)
    before = (directory / store.LOG).read_bytes()
    recover(directory)
    after = (directory / store.LOG).read_bytes()
    kept = directory / f"{store.LOG}.torn"
    torn_bytes = kept.read_bytes() if kept.exists() else b""
    whole = before.removesuffix(torn_bytes)
    assert whole + torn_bytes == before
    assert after.startswith(whole)
    if state in KNOWN_END:
        assert after == before


# -- a recovery that fails or dies ----------------------------------------------------------------


@states
def test_failing_at_every_step_leaves_it_recoverable(tmp_path, state):
    steps = steps_of(state, tmp_path / "counted")
    assert len(steps) > 8
    for number, name in enumerate(steps):
        root = tmp_path / str(number)
        directory = state(root)
        tail = content(directory)[store.LOG]
        answer = recover(directory, Fault(number))
        assert (answer.outcome, answer.exit_code) == ("failed", 4), name
        assert "No space left" in answer.reason
        assert verify(directory).verdict == "crashed", name
        assert recover(directory).outcome == "recovered", name
        require_recovered(directory, state)
        kept = directory / f"{store.LOG}.torn"
        assert not kept.exists() or tail.endswith(kept.read_bytes()), name
        found = ledger.verify(root)
        assert (found.first_bad, found.torn_tail) == (None, False)


KILLED = """
import os, signal, sys
from pathlib import Path
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.recovery.recover import recover
left = int(sys.argv[2])
def step(name):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
recover(Path(sys.argv[1]), step)
"""


def test_killed_at_every_step_it_can_be_recovered(tmp_path):
    for number in range(len(steps_of(torn_everywhere, tmp_path / "counted"))):
        directory = torn_everywhere(tmp_path / str(number))
        done = subprocess.run([sys.executable, "-c", KILLED, str(directory), str(number)])
        assert done.returncode == -signal.SIGKILL
        assert recover(directory).outcome == "recovered"
        require_recovered(directory, torn_everywhere)


@pytest.mark.parametrize("state", [torn, empty])
@pytest.mark.parametrize("name", [store.LOG, store.CHECKPOINTS])
def test_cut_at_every_byte_that_it_wrote(memory_path, state, name):
    """A kill in the middle of its own append leaves one more torn tail."""
    done = state(memory_path / "whole")
    recover(done)
    written = (done / name).read_bytes()
    other = {store.LOG: store.CHECKPOINTS, store.CHECKPOINTS: store.LOG}[name]
    directory = state(memory_path / "cut")
    before = content(directory)
    begin = before[name].rfind(b"\n") + 1
    for end in range(begin, len(written), 3):
        for path in directory.iterdir():
            path.unlink()
        (memory_path / "cut" / ledger.LEDGER).unlink(missing_ok=True)  # written after both
        for file, data in before.items():
            (directory / file).write_bytes(data)
        (directory / store.SUMMARY).write_bytes((done / store.SUMMARY).read_bytes())
        (directory / name).write_bytes(written[:end])
        if name == store.CHECKPOINTS:  # it writes these only after the log was complete
            (directory / other).write_bytes((done / other).read_bytes())
        assert recover(directory).outcome == "recovered", end
        require_recovered(directory, state)


def test_two_tails_are_both_kept(root):
    directory = torn(root)
    recover(directory, Fault(5))
    append(directory / store.LOG, b'{"half of the recovery')
    assert recover(directory).outcome == "recovered"
    kept = (directory / f"{store.LOG}.torn").read_bytes()
    assert kept == TORN + b'{"half of the recovery'
    assert f"recovered: {len(kept)} bytes of a torn record cut" in str(log_payloads(directory))


# -- what it writes -------------------------------------------------------------------------------


def test_a_record_says_what_was_cut(root):
    directory = torn(root)
    answer = recover(directory)
    *_, note, summary, end = log_payloads(directory)
    assert summary["event"]["target"] == "nono-trio:summary"
    assert note["event"]["target"] == "nono-trio:audit"
    assert note["event"]["decision"] == "deny"
    assert note["event"]["reason"] == (
        f"recovered: {len(TORN)} bytes of a torn record cut, kept in audit-events.ndjson.torn"
    )
    assert answer.torn_bytes == len(TORN)
    note = "not part of the proof, as no record binds what a recovery cut off: "
    assert note + "audit-events.ndjson.torn" in verify(directory).notes
    assert end == {"type": "session_ended", "ended": end["ended"], "exit_code": -1}


def test_the_end_is_the_last_sign_of_life(root):
    directory = plain(root)  # its last decision is 80 ms after the last checkpoint
    recover(directory)
    assert store.read_summary(directory).ended == "2026-07-02T12:03:04.125000Z"


def test_totals_are_those_of_the_log(root):
    directory = with_gap(root)
    recover(directory)
    metadata = store.read_metadata(directory)
    facts = metadata.nono_trio
    assert (facts.allowed_total, facts.denied_total, facts.lost_total) == (1, 1, 7)
    assert [event.target for event in metadata.network_events] == [
        "nono-trio:policy", "example.com", "evil.test", "nono-trio:audit", "nono-trio:audit",
        "nono-trio:summary",
    ]  # fmt: skip


def test_the_ledger_gets_one_line_however_often_it_is_tried(root):
    directory = plain(root)
    recover(directory, Fault(len(steps_of(plain, root.parent / "other")) - 1))
    recover(directory)
    assert [record.session_id for record in ledger.read(root)] == [ID]
    metadata = store.read_metadata(directory)
    assert next(ledger.read(root)).session_digest == session_digest(metadata)
    assert next(ledger.read(root)).completed_at == completed_at(metadata)


def test_the_status_follows_from_the_summary_that_the_log_binds(root):
    directory = plain(root)
    recover(directory)
    answer = verify(directory)
    assert any("it was recovered" in note for note in answer.notes)
    path = directory / store.SESSION
    path.write_bytes(path.read_bytes().replace(b'"recovered"', b'"sealed"'))
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "session.json mismatch")


def test_recovering_all_leaves_out_one_that_is_removed_meanwhile(root, monkeypatch, capsys):
    directories = plain(root), made.unsealed(root, "other")

    def removed_before(directory, **options):
        forget(root, directory.name)
        return recover(directory, **options)

    monkeypatch.setattr(recover_output, "recover", removed_before)
    made.let_go()
    assert recover_output.recover_sessions(root, None, as_json=True) == 0
    assert not any(one.exists() for one in directories)
    assert json.loads(capsys.readouterr().out)["outcome"] == "none"
