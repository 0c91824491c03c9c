"""Signed runs from the command line: keys, signatures, proofs, and what a cage may not reach."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
import signed_session as signed
from harness import NONO_TRIO, PYTHON_GRANTS, RUN_SECONDS, guarded, wait_until
from schemas import validate

from nono_trio.audit import store
from nono_trio.audit.keys import key_store
from nono_trio.audit.ledger import LEDGER_CHECKPOINTS

ISOLATIONS = ["namespace", pytest.param("landlock", marks=guarded)]


@pytest.fixture
def key(sessions):
    """The default key; returns the file of its public keys."""
    made = sessions.call("keys", "generate", "--json")
    assert made.returncode == 0, made.stderr
    public = sessions.home / "public.pem"
    public.write_text(json.loads(made.stdout)["public_keys"])
    return public


def verify(sessions, key, directory=None):
    done = sessions.call(
        "audit", "verify", "--json", "--public-key-file", str(key), str(directory or sessions.only)
    )
    return done.returncode, json.loads(done.stdout)


def checkpoints(directory):
    data = (directory / store.CHECKPOINTS).read_bytes()
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_signed_run_is_proved_to_a_stranger(sessions, key, isolation, tmp_path):
    summary = ["--summary", "json", "--summary-file", str(tmp_path / "summary")]
    options = ["--audit-sign-key", "default", "--isolation", isolation, *summary]
    done = sessions.run(*options, "--", "true")  # whose summary has the verdict on the log
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "summary").read_text())["exit_code"] == 0
    code, answer = verify(sessions, key)
    assert (code, answer["verdict"], answer["attestation"]["pinned"]) == (0, "verified", True)
    validate("verify", answer)
    ledger = ["audit", "ledger", "verify", "--json", "--public-key-file", str(key)]
    done = sessions.call(*ledger)
    assert json.loads(done.stdout)["attestation"]["signed_through"] == 0, done.stderr
    done = sessions.call("audit", "verify", "--all", "--json", "--public-key-file", str(key))
    assert done.returncode == 0, done.stdout
    session = sessions.only
    kept = shutil.copy(session / store.CHECKPOINTS, tmp_path / "kept.ndjson")
    proof = tmp_path / "record.tlog-proof"
    done = sessions.call("audit", "prove", session.name, "0", "-o", str(proof))
    assert done.returncode == 0, done.stderr
    done = sessions.call("audit", "consistency", str(kept), session.name, "--json")
    assert json.loads(done.stdout)["verdict"] == "consistent"

    shutil.rmtree(sessions.state)  # the proof and the key are enough
    check = ["audit", "check-proof", str(proof), "--public-key-file", str(key), "--json"]
    done = sessions.call(*check)
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"], found["sequence"]) == (0, "proved", 0)
    assert found["session_id"] == session.name
    assert json.loads(found["event_json"])["command"] == ["true"]
    data = proof.read_bytes()
    other = data.replace(b"extra eyJ0eXBl", b"extra eyJ0eXBm")
    assert other != data
    proof.write_bytes(other)
    assert sessions.call(*check).returncode == 1
    proof.write_bytes(data[:-9] + data[-5:])
    assert sessions.call(*check).returncode in (1, 2)
    assert sessions.call(*check[:3]).returncode == 2


def test_keys_are_listed_and_exported(sessions, key):
    listed = json.loads(sessions.call("keys", "list", "--json").stdout)["keys"]
    assert [one["name"] for one in listed] == ["default"]
    assert sessions.call("keys", "export").stdout == key.read_text()
    exported = sessions.call("keys", "export", "--vkey", "ledger").stdout
    assert exported.startswith("nono-trio/ledger/")
    again = sessions.call("keys", "generate")
    assert (again.returncode, "never replaced" in again.stderr) == (2, True)
    unknown = sessions.call("keys", "export", "--id", "other")
    assert unknown.returncode == 2
    assert "hint: nono-trio keys export --id default" in unknown.stderr
    other = sessions.call("keys", "generate", "--file", str(sessions.home / "mine.key"))
    assert other.returncode == 0, other.stderr


def test_a_profile_names_the_key(sessions, key):
    profile = sessions.home / "signed.toml"
    profile.write_text('[audit]\nsign_key = "default"\n')
    with sessions.proxy("-p", str(profile)) as (process, _):
        process.send_signal(signal.SIGTERM)
        process.wait(RUN_SECONDS)
    assert verify(sessions, key)[0] == 0


def test_no_grant_opens_a_key(sessions, key):
    """A named key lies where no grant reaches; a key file elsewhere must be outside the grants."""
    options = ["--audit-sign-key"]
    keys = sessions.state / key_store.DIRECTORY
    for flag, grant in (
        ("--read", keys), ("--read-file", keys / "default.key"), ("--read", sessions.state),
    ):  # fmt: skip
        done = sessions.run(*options, "default", flag, str(grant), "--", "true")
        assert done.returncode == 2
        assert "covers the audit state directory" in done.stderr
    work = sessions.home / "work"
    work.mkdir()
    mine = work / "mine.key"
    assert sessions.call("keys", "generate", "--file", str(mine)).returncode == 0
    for named in (str(mine), f"file://{mine}"):
        done = sessions.run(*options, named, "--read", str(work), "--", "true")
        assert done.returncode == 2
        assert "a key that the command can't read" in done.stderr
    done = sessions.run(*options, str(mine), "--no-sandbox", "--", "true")
    assert done.returncode == 2
    assert not (sessions.state / "audit").exists()


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_no_cage_reads_a_key(sessions, key, isolation):
    options = ["--isolation", isolation, "--audit-sign-key", "default", *PYTHON_GRANTS]
    read = f"open({str(sessions.state / key_store.DIRECTORY / 'default.key')!r})"
    done = sessions.run(*options, "--", sys.executable, "-c", read)
    assert done.returncode == 1
    assert "Error: [Errno " in done.stderr


def test_the_keys_of_the_usual_state_are_opened_by_no_flag(sessions):
    """A run whose log is elsewhere: the usual state is closed, and may be opened for its logs."""
    usual = sessions.home / ".local/state/nono-trio"
    usual.mkdir(parents=True)
    options = ["--bypass-protection", str(usual), "--read", str(usual), "--", "true"]
    assert sessions.run(*options).returncode == 0
    signed.key_store_generate(usual)
    done = sessions.run(*options)
    assert done.returncode == 2
    assert "the keys in it stay closed" in done.stderr


def test_a_session_that_is_killed_is_proved_up_to_its_last_signed_checkpoint(sessions, key):
    with sessions.proxy("--audit-sign-key", "default") as (process, line):
        process.kill()
        process.wait(RUN_SECONDS)
    directory = sessions.only
    assert directory.name == line["session_id"]
    code, answer = verify(sessions, key)
    assert (code, answer["verdict"]) == (6, "crashed")
    assert answer["attestation"]["signature_verified"]
    assert answer["attestation"]["signed_through"] >= 1  # the policy, before anything else
    assert sessions.call("audit", "recover", directory.name).returncode == 0
    assert sessions.verdict()[0] == 0
    assert verify(sessions, key)[0] == 6
    assert sessions.call("audit", "prove", directory.name, "1").returncode == 0


def test_a_ledger_that_was_taken_back_is_not_signed_and_the_run_says_it(sessions, key):
    for _ in range(2):
        assert sessions.run("--audit-sign-key", "default", "--", "true").returncode == 0
    ledger = sessions.state / "audit/ledger.ndjson"
    ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
    checkpoints_before = (ledger.parent / LEDGER_CHECKPOINTS).read_bytes()
    done = sessions.run("--audit-sign-key", "default", "--", "false")
    assert done.returncode == 1  # the command's own
    assert "warning: the ledger is tampered, and is not signed" in done.stderr
    assert (ledger.parent / LEDGER_CHECKPOINTS).read_bytes() == checkpoints_before
    done = sessions.call("audit", "verify", "--all", "--json", "--public-key-file", str(key))
    faults = [json.loads(line)["first_bad"] for line in done.stdout.splitlines()]
    classes = [one["class"] for one in faults if one is not None]
    assert "ledger rewritten behind a signed checkpoint" in classes


@pytest.mark.parametrize("good", [1, 3])
def test_a_signer_that_fails_ends_a_strict_session(sessions, key, good, tmp_path):
    """It answers `public` and then so many more: it fails at the start, or at the seal."""
    script = failing(sessions, tmp_path, good)
    marker = sessions.home / "work" / "ran"
    marker.parent.mkdir()
    command = ["--allow", str(marker.parent), "--", "touch", str(marker)]
    done = sessions.run("--audit-sign-key", f"cmd://{script}", *command)
    assert done.returncode == 4
    assert "signer" in done.stderr
    assert "hint: see what became of the signer" in done.stderr
    assert marker.exists() is (good == 3)
    code, answer = verify(sessions, key)
    assert (code, answer["verdict"]) == (6, "crashed")


def test_a_signer_that_fails_is_warned_of_in_a_best_effort_session(sessions, key, tmp_path):
    script = failing(sessions, tmp_path, 3)
    options = ["--audit-mode", "best-effort", "--audit-sign-key", f"cmd://{script}"]
    done = sessions.run(*options, "--", "true")
    assert done.returncode == 0, done.stderr
    assert "goes on without a signature" in done.stderr
    assert sessions.verdict()[0] == 0
    code, answer = verify(sessions, key)
    assert (code, answer["attestation"]["signed_through"]) == (6, 1)
    assert "note" not in checkpoints(sessions.only)[-1]


def failing(sessions, tmp_path, good):
    """A signer that answers so many times and fails from then on."""
    count = tmp_path / "count"
    before = (
        f"with open({str(count)!r}, 'a+') as f:\n"
        "    f.write('.'); f.flush(); f.seek(0)\n"
        f"    if len(f.read()) > {good}: raise SystemExit(3)\n"
    )
    return signed.signing_command(tmp_path, key_store.key_path(sessions.state, "default"), before)


def test_a_run_without_a_key_imports_no_cryptography(sessions):
    """Nor do verify and list: only a signature does."""
    for arguments in (["run", "--", "true"], ["audit", "verify", "latest"], ["audit", "list"]):
        done = subprocess.run(
            [NONO_TRIO, *arguments],
            env={**sessions.environment, "PYTHONPROFILEIMPORTTIME": "1"},
            cwd=sessions.home, capture_output=True, text=True, check=True, timeout=RUN_SECONDS,
        )  # fmt: skip
        assert "nono_trio.audit" in done.stderr
        for name in ("cryptography", "nono_trio.core.proof.note", "nono_trio.audit.keys.signer"):
            assert name not in done.stderr, (arguments, name)


def test_live_checkpoints_are_signed_while_the_session_runs(sessions, key):
    with sessions.proxy("--audit-sign-key", "default") as (process, line):
        directory = sessions.only
        wait_until(lambda: len(checkpoints(directory)) >= 1, "a signed checkpoint")
        code, answer = verify(sessions, key, directory)
        assert (code, answer["verdict"], answer["attestation"]["pinned"]) == (5, "open", True)
        process.send_signal(signal.SIGTERM)
        process.wait(RUN_SECONDS)
    assert line["session_id"] == directory.name
    assert all("note" in one for one in checkpoints(directory))
