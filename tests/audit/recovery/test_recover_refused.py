"""`audit recover`: the sessions that it refuses, and the command."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import sealed_session as made
import signed_session as signed
from crashed_session import (
    ID,
    TORN,
    append,
    content,
    plain,
    require_recovered,
    torn,
)
from harness import NONO_TRIO, RUN_SECONDS, as_user, wait_until

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.whole_ledger import verify_ledger
from nono_trio.cli import main as command_line


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


# -- what it leaves alone -------------------------------------------------------------------------


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def change_a_record(directory):
    flip(directory / store.LOG, 30)


def change_a_checkpoint(directory):
    path = directory / store.CHECKPOINTS
    path.write_bytes(path.read_bytes().replace(b'"event_count":3', b'"event_count":2'))


def cut_below_a_checkpoint(directory):
    os.truncate(directory / store.LOG, 200)


def change_the_command(directory):
    made.change_session(directory, command=["harmless"])


def change_the_start(directory):
    made.change_session(directory, started="2026-07-02T12:00:00.000000Z")


def change_the_id(directory):
    made.change_session(directory, session_id="another")


def add_after_the_end(directory):
    lines, _, _ = made.encode_log([*made.payloads_of(directory), made.ended(), made.network(9)])
    (directory / store.LOG).write_bytes(b"".join(lines))


def final_checkpoint_without_an_end(directory):
    payloads = made.payloads_of(directory)
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
    directory = made.running(root)
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
    assert name in answer.hint


@pytest.mark.parametrize("name", [store.NEW_SESSION, store.new_name(store.SUMMARY)])
def test_a_pipe_in_the_place_of_a_new_file_holds_up_nothing(root, name):
    directory = made.unsealed(root)
    os.mkfifo(directory / name)
    command = [NONO_TRIO, "audit", "recover", ID, "--audit-dir", str(root.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_SECONDS)
    assert (done.returncode, "recovered" in done.stdout) == (0, True), done.stdout
    require_recovered(directory, plain)


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_torn_record_is_not_counted_as_one(root, kind):
    directory = made.unsealed(root)
    place = directory / (store.LOG + store.TORN)
    place.symlink_to(sys.executable) if kind == "link" else place.mkdir()
    answer = recover(directory)
    assert (answer.outcome, answer.torn_bytes) == ("recovered", 0)
    assert verify(directory).verdict == "verified"


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user: only root refuses hard links")
@pytest.mark.parametrize("name", [store.LOG, store.CHECKPOINTS, store.LOG + store.TORN])
def test_root_writes_to_no_file_that_has_another_name(root, name):
    directory = torn(root)
    place, outside = directory / name, root.parent / "outside"
    outside.write_bytes(place.read_bytes() if place.exists() else b"another file")
    before = outside.read_bytes()
    place.unlink(missing_ok=True)
    os.link(outside, place)
    answer = recover(directory)
    assert (answer.outcome, answer.exit_code) == ("failed", 4)
    assert answer.reason == f"{place}: it has another name as well"
    assert outside.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user: only root refuses hard links")
@pytest.mark.parametrize("name", [store.NEW_SESSION, store.new_name(store.SUMMARY)])
def test_another_name_of_a_new_file_keeps_no_session_from_its_seal(root, name):
    """A backup may have given it one."""
    directory = torn(root)
    outside = root.parent / "outside"
    outside.write_bytes(b"another file")
    os.link(outside, directory / name)
    assert recover(directory).outcome == "recovered"
    assert outside.read_bytes() == b"another file"


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [(torn, 4, "audit-events.ndjson.torn: Permission denied"), (made.build, 0, "sealed")],
)
def test_what_can_not_be_written_is_read_all_the_same(open_place, make, code, text):
    prefix, variables = as_user("nobody", Path(__file__))
    root = open_place / "state" / "audit"
    directory = make(root)
    nobody = pwd.getpwnam("nobody")
    for path in (root.parent, root, directory, *directory.iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)
        if os.geteuid() == 0:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    done = subprocess.run(
        [*prefix, "-B", "-m", "nono_trio", "audit", "recover", ID, "--audit-dir", root.parent],
        env={"PATH": os.environ["PATH"], **variables}, cwd="/",
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert (done.returncode, text in done.stdout) == (code, True), done.stdout + done.stderr
    root.chmod(0o700)
    directory.chmod(0o700)


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_a_policy_that_is_no_file_is_what_verify_says(root, kind):
    directory = made.unsealed(root)
    policy = directory / store.POLICY
    policy.unlink()
    {
        "pipe": lambda: os.mkfifo(policy),
        "link": lambda: policy.symlink_to("nowhere"),
        "directory": policy.mkdir,
    }[kind]()
    assert verify(directory).verdict == "tampered"
    answer = recover(directory)
    assert (answer.outcome, answer.first_bad.failure) == ("tampered", "policy.json mismatch")


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
        f"recovered   {ID}  8 records, sealed now, 30 bytes of a torn record kept in"
        " audit-events.ndjson.torn; how the command ended is not known\n",
        f"hint: `nono-trio audit verify {ID}` proves it\n",
    )
    assert run(ID) == (
        0,
        f"sealed      {ID}  8 records, sealed before: nothing to do\n",
        f"hint: the log was not read: `nono-trio audit verify {ID}` checks it\n",
    )


def test_a_signed_session_is_recovered_with_its_key_and_its_ledger_is_signed(run, root, capsys):
    key, other = signed.key_store_generate(root.parent), "f" * 16
    directory = signed.crashed(root, key)
    signed.crashed(root, signed.signer(), session_id=other)  # its key is somewhere else
    for session_id, name in ((signed.ID, "default"), (other, "KEY")):
        command = f"nono-trio audit recover {session_id} --audit-sign-key {name}"
        assert command_line.exit_code(["audit", "verify", session_id]) == 6
        assert f"hint: `{command}` seals it\n" in capsys.readouterr().err
        assert command_line.exit_code(["stop", session_id]) != 0
        assert f"hint: `{command}` seals its log\n" in capsys.readouterr().err
    assert run(signed.ID, "--audit-sign-key", "default")[0] == 0
    assert verify(directory, pinned=key.public).verdict == "verified"
    assert verify_ledger(root / ledger.LEDGER, key.public).attestation.signed_through == 0


def test_all_crashed_ones_and_no_other(run, root):
    made.build(root, "sealed0000000000")
    made.running(root, "alive00000000000")
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
    made.running(root)
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
        "import sys; import nono_trio.cli.audit.recover;"
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
