"""`audit recover`: every state a crash leaves, a failure at every step, what it leaves alone."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest
import sealed_session as made
from harness import wait_until

from nono_trio.audit import ledger, store
from nono_trio.audit.recover import recover
from nono_trio.audit.verify import verify
from nono_trio.cli import main as command_line
from nono_trio.core import events
from nono_trio.core.metadata import completed_at, encode_metadata, session_digest

ID = "0123456789abcdef"
TORN = b'{"sequence":4,"prev_chain":"77'
GAP = made.network(
    3, "deny", "nono-trio:audit", port=None, method=None, reason="7 events lost: queue full"
)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


# -- the states that a crash leaves ---------------------------------------------------------------


def plain(root):
    return made.unsealed(root)


def torn(root):
    directory = made.unsealed(root)
    append(directory / store.LOG, TORN)
    return directory


def torn_everywhere(root):
    directory = torn(root)
    append(directory / store.CHECKPOINTS, b'{"v":1,"time":"2026-')
    append(directory / store.FLOWS, events.encode_flow(made.flow(2)) + b'{"sequence":2,"tar')
    return directory


def torn_with_newline(root):
    directory = made.unsealed(root)
    append(directory / store.LOG, b"\0" * 400 + b"\n")
    return directory


def empty(root):
    return made.unsealed(root, payloads=(), counts=())


def only_torn(root):
    directory = empty(root)
    append(directory / store.LOG, b'{"seq')
    return directory


def no_checkpoints(root):
    return made.unsealed(root, counts=())


def without_files(root):
    directory = no_checkpoints(root)
    (directory / store.CHECKPOINTS).unlink()
    (directory / store.FLOWS).unlink()
    return directory


def with_gap(root):
    return made.unsealed(root, payloads=(*made.SMALL[:-1], GAP), counts=(2,))


def ended_only(root):
    return made.unsealed(root, payloads=made.SMALL, counts=(2,))


def _opened(directory):
    """Take the seal back out of session.json, as before the last step of sealing."""
    lines, leaves, chains = made.encode_log(made.SMALL)
    metadata = made.metadata(directory.name, made.SMALL, lines, leaves, chains, status="open")
    (directory / store.SESSION).write_bytes(encode_metadata(metadata))
    return directory


def final_checkpoint(root):
    return _opened(made.build(root, in_ledger=False))


def in_the_ledger(root):
    return _opened(made.build(root))


STATES = [
    plain, torn, torn_everywhere, torn_with_newline, empty, only_torn, no_checkpoints,
    without_files, with_gap, ended_only, final_checkpoint, in_the_ledger,
]  # fmt: skip
KNOWN_END = (ended_only, final_checkpoint, in_the_ledger)
states = pytest.mark.parametrize("state", STATES)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def log_payloads(directory):
    lines = (directory / store.LOG).read_bytes().splitlines()
    return [json.loads(line)["event"] for line in lines]


def require_recovered(directory, state):
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad) == ("verified", None)
    assert any("recovered" in note for note in answer.notes)
    last = log_payloads(directory)[-1]
    assert last["type"] == "session_ended"
    assert last["exit_code"] == (0 if state in KNOWN_END else -1)
    summary = store.read_summary(directory)
    assert summary.nono_trio.status == "recovered"
    assert summary.exit_code == last["exit_code"]


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


def steps_of(state, root):
    seen = []
    recover(state(root), seen.append)
    return seen


class Fault:
    """Fails at the n-th step."""

    def __init__(self, number):
        self.left = number

    def __call__(self, name):
        if self.left == 0:
            raise OSError(28, "No space left on device", name)
        self.left -= 1


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
from nono_trio.audit.recover import recover
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
def test_cut_at_every_byte_that_it_wrote(tmp_path, state, name):
    """What a kill in the middle of its own append leaves is one more torn tail."""
    done = state(tmp_path / "whole")
    recover(done)
    written = (done / name).read_bytes()
    other = {store.LOG: store.CHECKPOINTS, store.CHECKPOINTS: store.LOG}[name]
    directory = state(tmp_path / "cut")
    before = content(directory)
    begin = before[name].rfind(b"\n") + 1
    for end in range(begin, len(written), 3):
        for path in directory.iterdir():
            path.unlink()
        for file, data in before.items():
            (directory / file).write_bytes(data)
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
    *_, note, end = log_payloads(directory)
    assert note["event"]["target"] == "nono-trio:audit"
    assert note["event"]["decision"] == "deny"
    assert note["event"]["reason"] == (
        f"recovered: {len(TORN)} bytes of a torn record cut, kept in audit-events.ndjson.torn"
    )
    assert answer.torn_bytes == len(TORN)
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
        "example.com", "evil.test", "nono-trio:audit", "nono-trio:audit",
    ]  # fmt: skip


def test_the_ledger_gets_one_line_however_often_it_is_tried(root):
    directory = plain(root)
    recover(directory, Fault(len(steps_of(plain, root.parent / "other")) - 1))
    recover(directory)
    assert [record.session_id for record in ledger.read(root)] == [ID]
    metadata = store.read_metadata(directory)
    assert next(ledger.read(root)).session_digest == session_digest(metadata)
    assert next(ledger.read(root)).completed_at == completed_at(metadata)


def test_the_note_of_verify_follows_the_log_and_not_the_status(root):
    directory = plain(root)
    recover(directory)
    fields = json.loads((directory / store.SESSION).read_bytes())
    made.change_session(directory, nono_trio=fields["nono_trio"] | {"status": "sealed"})
    answer = verify(directory)
    assert answer.verdict == "verified"
    assert any("it was recovered" in note for note in answer.notes)


# -- what it leaves alone -------------------------------------------------------------------------


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def change_a_record(directory):
    flip(directory / store.LOG, 30)


def change_a_checkpoint(directory):
    path = directory / store.CHECKPOINTS
    path.write_bytes(path.read_bytes().replace(b'"event_count":2', b'"event_count":1'))


def cut_below_a_checkpoint(directory):
    os.truncate(directory / store.LOG, 200)


def change_the_command(directory):
    made.change_session(directory, command=["harmless"])


def change_the_start(directory):
    made.change_session(directory, started="2026-07-02T12:00:00.000000Z")


def change_the_id(directory):
    made.change_session(directory, session_id="another")


def add_after_the_end(directory):
    lines, _, _ = made.encode_log([*made.SMALL, made.network(9)])
    (directory / store.LOG).write_bytes(b"".join(lines))


def final_checkpoint_without_an_end(directory):
    payloads = made.SMALL[:-1]
    lines = made.checkpoint_lines(*made.encode_log(payloads), [len(payloads)], final=True)
    (directory / store.CHECKPOINTS).write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        change_a_record, change_a_checkpoint, cut_below_a_checkpoint, change_the_command,
        change_the_start, change_the_id, add_after_the_end, final_checkpoint_without_an_end,
    ],
)  # fmt: skip
def test_tampering_is_not_sealed(root, change):
    directory = made.unsealed(root)
    change(directory)
    before = content(directory)
    answer = recover(directory)
    assert (answer.outcome, answer.exit_code) == ("tampered", 1)
    assert answer.first_bad is not None
    assert content(directory) == before
    assert not (root / ledger.LEDGER).exists()


def test_a_live_session_is_refused(root):
    directory = made.unsealed(root, **made.alive_facts())
    before = content(directory)
    answer = recover(directory)
    assert (answer.outcome, answer.exit_code) == ("running", 5)
    assert content(directory) == before


def test_a_held_lock_is_respected(root):
    """A writer whose process can't be seen from here (another PID namespace) holds the lock."""
    directory = torn(root)
    before = content(directory)
    with (directory / store.LOG).open("rb") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert recover(directory).outcome == "running"
        assert content(directory) == before
    assert recover(directory).outcome == "recovered"


def test_two_at_once(root):
    directory = torn(root)
    inner = []

    def step(name):
        if name == "end":
            inner.append(recover(directory).outcome)

    assert recover(directory, step).outcome == "recovered"
    assert inner == ["running"]
    require_recovered(directory, torn)


@pytest.mark.parametrize("name", [store.SESSION, store.LOG])
def test_a_missing_file_is_no_crash_to_seal(root, name):
    directory = made.unsealed(root)
    (directory / name).unlink()
    answer = recover(directory)
    assert (answer.outcome, answer.exit_code) == ("unreadable", 2)
    assert name in answer.reason


def test_a_session_of_upstream_is_left_alone(root):
    directory = made.unsealed(root)
    fields = json.loads((directory / store.SESSION).read_bytes())
    del fields["nono_trio"]
    (directory / store.SESSION).write_text(json.dumps(fields))
    assert recover(directory).outcome == "unreadable"


def test_a_broken_ledger_stops_it_before_session_json(root):
    directory = plain(root)
    (root / ledger.LEDGER).write_bytes(b"no ledger line\n")
    answer = recover(directory)
    assert (answer.outcome, answer.exit_code) == ("failed", 4)
    assert "ledger" in answer.reason
    assert verify(directory).verdict == "crashed"
    (root / ledger.LEDGER).unlink()
    assert recover(directory).outcome == "recovered"


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `nono-trio audit recover`; (exit code, stdout, stderr)."""
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))

    def run(*arguments):
        code = command_line.exit_code(["audit", "recover", *arguments])
        return code, *capsys.readouterr()

    return run


def test_one_session(run, root):
    torn(root)
    assert run("latest") == (
        0,
        f"recovered   {ID}  6 records, sealed now, 30 bytes of a torn record kept in"
        " audit-events.ndjson.torn; how the command ended is not known\n",
        f"hint: `nono-trio audit verify {ID}` proves it\n",
    )
    assert run(ID) == (0, f"sealed      {ID}  6 records, sealed before: nothing to do\n", "")


def test_all_crashed_ones_and_no_other(run, root):
    made.build(root, "sealed0000000000")
    made.unsealed(root, "alive00000000000", **made.alive_facts())
    made.unsealed(root, "crashed000000000")
    made.unsealed(root, "tampered00000000")
    change_a_record(root / "tampered00000000")
    code, out, err = run("--all", "--json")
    told = {answer["session_id"]: answer for answer in map(json.loads, out.splitlines())}
    assert {name: answer["outcome"] for name, answer in told.items()} == {
        "crashed000000000": "recovered", "tampered00000000": "tampered",
    }  # fmt: skip
    assert (code, err) == (1, "")
    assert told["tampered00000000"]["schema"] == 1
    assert told["tampered00000000"]["first_bad"]["line"] == 1


def test_nothing_to_recover(run):
    code, out, err = run("--all")
    assert (code, out) == (0, "")
    assert err.startswith("nono-trio: no crashed session in ")


def test_a_running_one(run, root):
    made.unsealed(root, **made.alive_facts())
    code, out, err = run(ID)
    assert (code, out) == (5, f"running     {ID}  its supervisor is alive\n")
    assert err == f"hint: `nono-trio stop {ID}` ends it\n"


@pytest.mark.parametrize("arguments", [(), ("latest", "--all")])
def test_one_or_all(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "expected one session, or --all, and not both" in err


def test_it_needs_no_loop():
    code = (
        "import sys; import nono_trio.cli.audit_recover;"
        "assert not {'trio', 'nono_py', 'rich'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_killed_run(sessions):
    """kill -9 of a real supervisor: crashed, recovered, verified, and its child is gone."""
    with sessions.started("run", "--", "sleep", "60") as process:
        wait_until(
            lambda: bool(sessions.directories) and len(sessions.records(sessions.only)) >= 2,
            "the session began",
        )
        busy = sessions.call("audit", "recover", "latest")
        assert (busy.returncode, busy.stdout.split()[0]) == (5, "running")
        process.kill()
        process.wait()
    append(sessions.only / store.LOG, TORN)
    done = sessions.call("audit", "recover", "latest")
    assert (done.returncode, done.stdout.split()[0]) == (0, "recovered")
    code, answer = sessions.verdict()
    assert (code, answer["verdict"], answer["sealed"]) == (0, "verified", True)
