"""Forgeries by a writer of the state directory, and the checker of docs/proof.md."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sealed_session as made
from checkout import ROOT
from sealed_session import change_session

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.cli.audit.verify import verify_all, verify_targets
from nono_trio.core.log.ledger_record import (
    decode_ledger_record,
    encode_ledger_record,
    ledger_chain_hash,
)
from nono_trio.errors import LogUnreadable, NonoTrioError

DOCUMENT = ROOT / "docs" / "proof.md"
ID = "0123456789abcdef"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def session(root):
    return made.build(root, flows=[made.flow(3)])


def facts_of(directory):
    return json.loads((directory / store.SESSION).read_bytes())["nono_trio"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("isolation", "landlock"), ("enforcement", []), ("name", "other"), ("lost_total", 3),
        ("allowed_total", 0), ("denied_total", 0), ("audit_mode", "best-effort"),
        ("working_directory", "/"), ("status", "recovered"), ("version", "9"),
    ],
)  # fmt: skip
def test_edited_facts(session, field, value):
    change_session(session, nono_trio=facts_of(session) | {field: value})
    answer = verify(session)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "session.json mismatch")


@pytest.mark.parametrize("name", [store.POLICY, store.SUMMARY])
def test_an_edited_or_missing_bound_file(session, name):
    path = session / name
    path.write_bytes(path.read_bytes().replace(b'"namespace"', b'"none"'))
    assert verify(session).first_bad.failure == f"{name} mismatch"
    path.unlink()
    assert verify(session).first_bad.failure == f"{name} mismatch"


def test_flows_and_checkpoint_times_edited_with_the_hash_recomputed(session):
    """Before, the final checkpoint's flows_sha256 was all that bound them."""
    flows = session / store.FLOWS
    flows.write_bytes(flows.read_bytes().replace(b'"bytes_up":100', b'"bytes_up":900'))
    marks = session / store.CHECKPOINTS
    lines = [json.loads(line) for line in marks.read_bytes().splitlines()]
    before = marks.read_bytes()
    lines[-1]["flows_sha256"] = made.hashlib.sha256(flows.read_bytes()).hexdigest()
    encoded = [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]
    marks.write_bytes(b"".join(encoded))
    assert verify(session).first_bad.failure == "flows mismatch"
    flows.write_bytes(flows.read_bytes().replace(b'"bytes_up":900', b'"bytes_up":100'))
    marks.write_bytes(before.replace(b"2026-07-02", b"2026-07-01", 1))
    assert verify(session).first_bad.failure == "checkpoints mismatch"


@pytest.mark.parametrize("tail", [b"{", b"\0" * 9, b"garbage\n"])
def test_bytes_after_the_final_checkpoint(session, tail):
    with (session / store.CHECKPOINTS).open("ab") as file:
        file.write(tail)
    assert verify(session).verdict == "tampered"


def test_a_second_ledger_line_after_a_removed_record(root, session):
    shutil.rmtree(session)
    made.build(root, ID, payloads=[*made.SMALL[:3], made.SMALL[-1]])  # adds its own line
    answer = verify(session)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "ledger a second digest")


def test_a_symlink_in_the_place_of_a_session(root, session):
    other = made.build(root, "other")
    shutil.rmtree(session)
    session.symlink_to(other)
    (answer,) = verify_targets(root, [ID], quick=False, jobs=1)
    assert (answer.verdict, answer.session_id) == ("tampered", ID)
    assert "tampered" in {one.verdict for one in verify_all(root, quick=False, jobs=1)}


def test_deleted_sessions_are_missing_until_they_are_forgotten(root, session):
    made.build(root, "other", name=ID)  # a name never stands for an id of the ledger
    shutil.rmtree(session)
    (answer,) = verify_targets(root, [ID], quick=False, jobs=1)
    assert (answer.verdict, answer.exit_code) == ("missing", 1)
    (answer,) = verify_targets(root, [ID[:5]], quick=False, jobs=1)
    assert (answer.verdict, answer.session_id) == ("missing", ID)
    assert [one.verdict for one in verify_all(root, quick=False, jobs=1)] == ["verified", "missing"]
    forget(root, ID)
    forget(root, ID)
    assert [one.verdict for one in verify_all(root, quick=False, jobs=1)] == ["verified"]
    assert [record.session_id for record in ledger.read(root)][-1] == f"removed-{ID}"
    (answer,) = verify_targets(root, [ID], quick=False, jobs=1)
    assert (answer.verdict, answer.exit_code) == ("unreadable", 2)


def test_forgetting_removes_the_directory_and_no_running_session(root, session):
    forget(root, ID)
    assert not session.exists()
    running = made.unsealed(root, "running")
    with (running / store.LOG).open("rb") as log:
        made_lock(log)
        with pytest.raises(NonoTrioError, match="running"):
            forget(root, "running")
    with pytest.raises(LogUnreadable):
        forget(root, "nothing")


def made_lock(file):
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)


def test_a_sealed_session_that_is_cut_and_opened_is_not_laundered(session):
    log = session / store.LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4]))
    marks = session / store.CHECKPOINTS
    marks.write_bytes(marks.read_bytes().splitlines(keepends=True)[0])
    (session / store.SUMMARY).unlink()
    opened = made.metadata(ID, made.SMALL, [], [], [], status="open")
    store.write_session_json(session, opened)
    answer = verify(session)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "sealed session opened again")
    assert recover(session).outcome == "tampered"
    (session / store.SESSION).unlink()
    assert verify(session).verdict == "tampered"


@pytest.mark.parametrize("upstream", [False, True])
def test_our_files_deleted_do_not_make_the_rules_weaker(session, upstream):
    for name in (store.CHECKPOINTS, store.FLOWS, store.POLICY, store.SUMMARY):
        (session / name).unlink()
    fields = json.loads((session / store.SESSION).read_bytes())
    del fields["nono_trio"]
    (session / store.SESSION).write_text(json.dumps(fields))
    assert verify(session, upstream=upstream).verdict == "tampered"


def test_a_ledger_line_altered_and_hashed_anew_condemns_itself(root, session):
    made.build(root, "later")
    path = root / ledger.LEDGER
    first, second = path.read_bytes().splitlines(keepends=True)
    record = decode_ledger_record(first)
    chain = ledger_chain_hash(None, 0, ID, record.session_digest, "2026-01-01T00:00:00Z")
    forged = encode_ledger_record(
        made.msgspec.structs.replace(record, completed_at="2026-01-01T00:00:00Z", chain_hash=chain)
    )
    path.write_bytes(forged + second)
    assert verify(session).verdict == "tampered"
    assert verify(root / "later").verdict == "verified"


def test_a_ledger_and_checkpoints_are_judged_as_what_they_are(root, session, tmp_path):
    made.build(root, "other")
    for path in (root / ledger.LEDGER, shutil.copy(root / ledger.LEDGER, tmp_path / "copy")):
        answer = verify(Path(path))
        assert (answer.verdict, answer.event_count) == ("verified", 2)
    path = root / ledger.LEDGER
    path.write_bytes(path.read_bytes().replace(b"other", b"Other"))
    assert verify(path).verdict == "tampered"
    alone = shutil.copy(session / store.CHECKPOINTS, tmp_path / "marks")
    assert verify(Path(alone)).verdict == "unreadable"
    assert verify(session / store.CHECKPOINTS).session_id == ID


def test_a_hole_of_zeros_after_the_last_checkpoint_is_a_crash(root):
    directory = made.unsealed(root)
    log = made.log_of(directory)
    data = bytearray(log.read_bytes())
    lines = bytes(data).splitlines(keepends=True)
    begin = sum(map(len, lines[:3])) + 20
    data[begin : begin + 300] = bytes(300)
    log.write_bytes(data)
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 3)
    assert recover(directory).outcome == "recovered"
    assert verify(directory).verdict == "verified"
    covered = made.unsealed(root, "covered", counts=(5,))
    data = bytearray(made.log_of(covered).read_bytes())
    data[begin : begin + 300] = bytes(300)
    made.log_of(covered).write_bytes(data)
    assert verify(covered).verdict == "tampered"


FILES = [store.LOG, store.CHECKPOINTS, store.FLOWS, store.POLICY, store.SUMMARY, store.SESSION]


@pytest.mark.parametrize("name", [*FILES, ledger.LEDGER])
def test_no_flipped_byte_is_verified(root, session, name):
    """Every byte of every file; the one exception is the time of the final checkpoint."""
    path = session / name if name != ledger.LEDGER else root / name
    whole = path.read_bytes()
    final_time = whole.rindex(b'"time":"') if name == store.CHECKPOINTS else len(whole)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= (1, 0x20, 0x80)[position % 3]
        made.overwrite(path, changed)
        if verify(session).verdict == "verified":
            assert final_time <= position < final_time + len('"time":"') + len(made.STARTED)


@pytest.mark.parametrize("name", [store.LOG, store.CHECKPOINTS, store.SESSION, ledger.LEDGER])
def test_no_line_dropped_doubled_or_swapped_is_verified(root, session, name):
    made.build(root, "later")
    path = session / name if name != ledger.LEDGER else root / name
    lines = path.read_bytes().splitlines(keepends=True)
    for i in range(len(lines) if name != ledger.LEDGER else 1):
        changes = [lines[:i] + lines[i + 1 :], lines[: i + 1] + lines[i:]]
        if i + 1 < len(lines) and lines[i] != lines[i + 1]:
            changes.append([*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]])
        for changed in changes:
            made.overwrite(path, b"".join(changed))
            assert verify(session).verdict != "verified", (i, changed)


# -- the checker of the documentation ------------------------------------------------------------


def check(tmp_path, directory):
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (code,) = [one for one in programs if "openssl" not in one]
    assert len(code.splitlines()) <= 50
    program = tmp_path / "check.py"
    program.write_text(code)
    return subprocess.run(
        [sys.executable, "-I", program, directory], capture_output=True, text=True, timeout=60
    )


def test_the_documented_checker_needs_none_of_our_code(tmp_path, root, session):
    done = check(tmp_path, session)
    assert (done.returncode, done.stderr) == (0, "")
    assert verify(session).chain_head in done.stdout
    for name in FILES:
        copy = tmp_path / name / ID
        shutil.copytree(session, copy)
        shutil.copy(root / ledger.LEDGER, copy.parent)
        data = (copy / name).read_bytes().replace(b"2026", b"2027").replace(b'"bytes_up":1', b"")
        (copy / name).write_bytes(data.replace(b'"namespace"', b'"none"'))
        assert check(tmp_path, copy).returncode != 0, name


def test_the_documented_checker_on_a_real_session(tmp_path, sessions):
    assert sessions.run("--", "true").returncode == 0
    done = check(tmp_path, sessions.only)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_policy_names_each_file_of_a_profile_by_its_digest(sessions, own):
    """Also of one that changed since: what it said then is what its bytes at that time said."""
    base = own("base.toml", "network.open_port = [3]\n")
    top = own("top.toml", 'extends = "base"\n[network]\nallow_domain = ["api.example.com"]\n')
    assert sessions.run("--profile", "top", "--", "true").returncode == 0
    policy = json.loads((sessions.only / store.POLICY).read_bytes())
    used = {one["source"]: one["sha256"] for one in policy["origin"]["profiles"]}
    expected = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, top)}
    assert expected <= set(used.values())
    top.write_text(top.read_text().replace("api.", "www."))
    assert hashlib.sha256(top.read_bytes()).hexdigest() not in used.values()
    assert verify(sessions.only).verdict == "verified"
    path = sessions.only / store.POLICY
    forged = hashlib.sha256(top.read_bytes()).hexdigest()
    for digest in expected:
        path.write_bytes(path.read_bytes().replace(digest.encode(), forged.encode()))
    assert verify(sessions.only).first_bad.failure == "policy.json mismatch"
