"""Attacks of a forger who can write the state directory, and verify's answers."""

from __future__ import annotations

import fcntl
import json
import os
import shutil

import pytest
import sealed_session as made
import signed_session as signed
from checkout import TESTS
from crashed_session import ID

from nono_trio.audit import ledger, store
from nono_trio.audit.read.records import is_zeros
from nono_trio.audit.recovery import recover as recovering
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify import session as verifying
from nono_trio.audit.verify.evidence import gather
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.verdict import worst
from nono_trio.audit.write import ledger_append
from nono_trio.cli.audit.learn import Lesson
from nono_trio.cli.audit.render import verification_lines
from nono_trio.cli.audit.verify import verify_all
from nono_trio.core.log.ledger_record import sound_record
from nono_trio.errors import LogUnreadable

TERABYTE = 2**40
DATA = TESTS / "data" / "vectors"


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "audit"
    made.let_go()


def said_to_run(root, records):
    """A sealed session, cut to its first records and said to be supervised by this process."""
    sealed = made.build(root)
    lines = made.log_of(sealed).read_bytes().splitlines(keepends=True)
    shutil.rmtree(sealed)
    directory = made.unsealed(root, **made.alive_facts())
    made.overwrite(made.log_of(directory), b"".join(lines[:records]))
    made.overwrite(directory / store.CHECKPOINTS, b"")
    return directory


@pytest.mark.parametrize("records", [0, 1])
@pytest.mark.parametrize("locked", [False, True])
def test_a_living_pid_does_not_reopen_a_session_of_the_ledger(root, records, locked):
    """Not even one that holds the lock on what is left of the log."""
    directory = said_to_run(root, records)
    with made.log_of(directory).open("rb") as log:
        if locked:
            fcntl.flock(log, fcntl.LOCK_EX)
        answer = verify(directory)
    assert (answer.verdict, answer.exit_code) == ("tampered", 1)
    assert answer.first_bad.failure == "sealed session opened again"


def test_a_living_pid_without_the_lock_runs_nothing(root):
    directory = made.unsealed(root, **made.alive_facts())
    assert verify(directory).verdict == "crashed"


@pytest.mark.parametrize("alive", [False, True])
def test_a_session_that_is_sealed_while_it_is_judged_is_not_tampered(root, monkeypatch, alive):
    """Read as crashed or running, sealed before its ledger is read."""
    directory = (made.running if alive else made.unsealed)(root)
    looks = []

    def sealed_after_the_first_look(*arguments, **options):
        evidence = gather(*arguments, **options)
        if not looks:
            made.let_go()
            assert recover(directory).outcome == "recovered"
        looks.append(evidence)
        return evidence

    monkeypatch.setattr(verifying, "gather", sealed_after_the_first_look)
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad, len(looks)) == ("verified", None, 2)


@pytest.mark.parametrize("place", ["directory", "pipe", "loop"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_ledger_that_can_not_be_read_is_told_of_all(root, place, gone):
    """With every session removed there was nothing left to complain: exit 0."""
    directory = made.build(root)
    if gone:
        shutil.rmtree(directory)
    path = root / ledger.LEDGER
    path.unlink()
    {"directory": os.mkdir, "pipe": os.mkfifo, "loop": lambda at: os.symlink(at, at)}[place](path)
    answers = list(verify_all(root, quick=False, jobs=1))
    assert [answer.verdict for answer in answers[:-1]] == ["unreadable"] * (not gone)
    assert answers[-1].first_bad.failure == "ledger replaced"
    assert answers[-1].path == str(path)


def test_a_hole_of_a_terabyte_after_an_end_keeps_nobody(root):
    directory = made.unsealed(root, payloads=made.SMALL)
    log = made.log_of(directory)
    end = log.stat().st_size
    os.truncate(log, TERABYTE)
    assert verify(directory).verdict == "crashed"
    with log.open("r+b") as file:
        file.seek(TERABYTE // 2)
        file.write(b"x")
    assert not is_zeros(log, end)
    assert verify(directory).first_bad.failure == "bytes after the seal"


KINDS = {
    "directory": os.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: os.symlink(path, path),
    "device": lambda path: os.symlink("/dev/null", path),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [signed.sealed, signed.crashed])
def test_what_is_no_file_in_the_place_of_one_is_tampering(root, make, kind):
    """It was `unreadable`, as a file that the verifier may not read: no crash leaves that."""
    whole = make(root, signed.signer())
    place = root.parent / "changed"
    for name, failure in (
        (store.POLICY, "policy.json mismatch"), (store.CHECKPOINTS, "checkpoints mismatch"),
        (store.FLOWS, "flows mismatch"), (store.PROCESSES, "processes mismatch"),
        (store.SUMMARY, "summary.json mismatch"), (store.BUNDLE, "signature missing"),
        (store.SESSION, None), (store.LOG, None),
    ):  # fmt: skip
        shutil.copytree(root, place)
        directory = place / whole.name
        (directory / name).unlink(missing_ok=True)
        KINDS[kind](directory / name)
        answer = verify(directory)
        told = answer.first_bad and answer.first_bad.failure
        if failure is not None and (make, name) != (signed.crashed, store.BUNDLE):
            assert (answer.verdict, told) == ("tampered", failure), name
        elif make is signed.sealed:  # the ledger knows it
            assert answer.verdict == "tampered", name
        else:  # there is nothing that could be judged
            assert answer.verdict in ("unreadable", "crashed"), name
        shutil.rmtree(place)


def test_a_destroyed_line_and_a_new_one_at_the_end_are_told(root):
    """Without the session's name in it, the line may belong to any session."""
    made.build(root, "before")
    directory = made.build(root, ID)
    made.build(root, "after")
    path = root / ledger.LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"destroyed\n" + lines[2])
    assert verify(directory).first_bad.failure == "ledger line missing"
    record = sound_record(lines[1])
    ledger_append.append(root, ID, record.session_digest, record.completed_at)
    doubt = [any("which may have been its own" in note for note in verify(one).notes)
             for one in (root / "before", directory, root / "after")]  # fmt: skip
    assert doubt == [False, True, True]
    assert "other lines are damaged" in "".join(verification_lines(verify(directory), brief=False))
    assert worst(answer.verdict for answer in verify_all(root, quick=False, jobs=1)) == 1


def test_a_directory_called_latest_is_not_the_latest(root):
    directory = made.build(root)
    shutil.copytree(directory, root / store.LATEST)
    made.build(root, "newer")
    assert store.find_session(root, store.LATEST).name == "newer"


def test_a_policy_that_only_the_recovery_bound_is_told(root):
    """A crashed log cut to its beginning lets a forger choose the policy."""
    directory = made.unsealed(root)
    first = made.log_of(directory).read_bytes().splitlines(keepends=True)[0]
    made.overwrite(made.log_of(directory), first)
    made.overwrite(directory / store.CHECKPOINTS, b"")
    assert recover(directory).outcome == "recovered"
    answer = verify(directory)
    assert answer.verdict == "verified"
    assert any("no record had bound" in note for note in answer.notes)
    whole = made.unsealed(root, "whole")
    assert recover(whole).outcome == "recovered"
    assert not any("no record had bound" in note for note in verify(whole).notes)


@pytest.mark.parametrize("name", [store.POLICY, store.SUMMARY, store.SESSION, store.FLOWS])
def test_quick_finds_an_accident_in_any_file(root, name):
    directory = made.build(root, flows=[made.flow(3)])
    assert verify(directory, quick=True).verdict == "undamaged"
    data = bytearray((directory / name).read_bytes())
    data[len(data) // 2] ^= 1
    made.overwrite(directory / name, bytes(data))
    assert verify(directory, quick=True).exit_code in (1, 2)


def test_quick_does_not_call_a_reopened_session_crashed(root):
    sealed = made.build(root)
    shutil.rmtree(sealed)
    assert verify(made.unsealed(root), quick=True).verdict == "tampered"


def test_a_log_whose_session_file_is_destroyed_teaches_nothing(root):
    """Changes inside it are not reported then."""
    directory = made.unsealed(root)
    log = made.log_of(directory)
    made.overwrite(log, log.read_bytes().replace(b"evil.test", b"good.test"))
    (directory / store.SESSION).write_bytes(b"{")
    with pytest.raises(LogUnreadable):
        Lesson(directory)


@pytest.mark.parametrize("added", [b'\n  "zzz": 1,', b'\n  "command": ["harmless"],'])
def test_an_open_session_file_is_ours_to_the_byte(root, added):
    """Another program that reads it may take the first of two keys, or one that we do not know."""
    directory = made.unsealed(root)
    path = directory / store.SESSION
    path.write_bytes(path.read_bytes().replace(b"{", b"{" + added, 1))
    assert verify(directory).first_bad.failure == "session.json mismatch"
    assert recover(directory).outcome == "tampered"


def test_a_reopened_session_whose_line_is_destroyed_is_told(root):
    shutil.rmtree(made.build(root))
    (root / ledger.LEDGER).write_bytes(b"destroyed\n")
    answer = verify(made.unsealed(root))
    assert answer.verdict == "crashed"
    assert any("it may have been this session's" in note for note in answer.notes)


def test_an_upstream_session_under_another_name_beside_a_ledger(root, tmp_path):
    """The id that was asked for is the one that is proved."""
    source = next(path.parent for path in DATA.glob("*/session.json"))
    name = json.loads((source / store.SESSION).read_bytes())["session_id"]
    made.build(root, "one")
    shutil.copytree(source, root / "another")
    answer = verify(root / "another", upstream=True)
    assert answer.first_bad.failure == "session id mismatch"
    shutil.move(root / "another", root / name)
    assert verify(root / name, upstream=True).verdict == "verified"
    shutil.copytree(source, tmp_path / "copy")
    answer = verify(tmp_path / "copy", upstream=True)
    assert (answer.verdict, answer.session_id) == ("verified", name)
    assert any("another name" in note for note in answer.notes)


def test_every_file_that_a_recovery_judges_is_read_from_the_disk(root, monkeypatch):
    """After a failed sync the page cache may hold what the disk lost, of any of them."""
    directory = made.unsealed(root, payloads=made.SMALL)
    (directory / store.PROCESSES).touch()
    forgotten = []
    monkeypatch.setattr(recovering, "forget_cached", lambda path: forgotten.append(path.name))
    files = {path.name for path in directory.iterdir()}
    assert recover(directory).outcome == "recovered"
    assert set(forgotten) == files


def test_a_copy_under_another_id_says_nothing_about_the_session(root, run):
    """A verdict has the id of the place: the session that was copied is whole."""
    session = made.build(root)
    copy = root / "aaaaaaaaaaaaaaaa"
    shutil.copytree(session, copy)
    code, out, _ = run("audit", "verify", copy.name)
    assert (code, out.split()[:2]) == (1, ["tampered", copy.name])
    found = {}
    for line in run("audit", "verify", "--all", "--json")[1].splitlines():
        answer = json.loads(line)
        found[answer["session_id"]] = answer["verdict"]
    assert found == {session.name: "verified", copy.name: "tampered"}
