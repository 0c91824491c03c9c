"""`audit cleanup`: what each limit names, and that nothing is half removed or followed."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sealed_session as made
from checkout import ROOT

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery import cleanup
from nono_trio.audit.recovery.cleanup import Limits, choose, clean_up, disk_size
from nono_trio.audit.recovery.forget import SessionInUse, forget
from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import ledger_append
from nono_trio.cli.audit.verify import verify_all

SESSIONS = [f"{number:016x}" for number in range(4)]  # oldest first: the ledger's order
CLEAN_SECONDS = 60
ENDED = datetime.fromisoformat(made.ENDED)


@pytest.fixture(autouse=True)
def let_go():
    yield
    made.let_go()


def built(root, names=SESSIONS):
    return [made.build(root, name) for name in names]


def named(root, **limits):
    return {one.session.session_id: limit for one, limit in choose(root, Limits(**limits)).named}


def cleaned(root, **limits):
    choice = choose(root, Limits(**limits))
    return {one.session_id: one.outcome for one in clean_up(root, choice, dry_run=False)}


def test_each_limit_names_the_oldest_first(root):
    first, *_ = built(root)
    size = disk_size(first)
    assert list(named(root, keep=1)) == SESSIONS[:3]
    assert named(root, total_bytes=2 * size) == dict.fromkeys(SESSIONS[:2], "max-total-size")
    assert named(root, total_bytes=4 * size) == named(root, since=ENDED) == {}
    later = ENDED + timedelta(seconds=1)
    assert named(root, since=later, keep=3) == {SESSIONS[0]: "keep"} | dict.fromkeys(
        SESSIONS[1:], "older-than"
    )


def test_what_is_removed_is_said_in_the_ledger_and_not_missing(root):
    built(root)
    choice = choose(root, Limits(keep=2))
    shown = [one.outcome for one in clean_up(root, choice, dry_run=True)]
    assert shown == ["would-remove"] * 2
    assert len(store.sessions(root)) == 4
    assert cleaned(root, keep=2) == dict.fromkeys(SESSIONS[:2], "removed")
    assert {one.verdict for one in verify_all(root, quick=False, jobs=1)} == {"verified"}
    assert sorted(ledger.verify(root).removed) == SESSIONS[:2]


def test_running_and_tampered_sessions_stay_and_crashed_ones_go(root):
    built(root, SESSIONS[:1])
    bad = made.build(root, SESSIONS[1])
    made.change_session(bad, command=["another"])
    made.unsealed(root, "crashed")
    made.running(root, "running")
    shown = clean_up(root, choose(root, Limits(keep=0)), dry_run=True)
    assert {one.session_id: one.outcome for one in shown} == {
        SESSIONS[0]: "would-remove", SESSIONS[1]: "tampered", "crashed": "would-remove",
        "running": "running",
    }  # fmt: skip
    outcomes = cleaned(root, keep=0)
    assert outcomes == {
        SESSIONS[0]: "removed", SESSIONS[1]: "tampered", "crashed": "removed", "running": "running",
    }  # fmt: skip
    assert cleanup.exit_code(iter(outcomes.values())) == 1
    assert {one.name for one in root.iterdir() if one.is_dir()} == {bad.name, "running"}
    assert verify(bad).verdict == "tampered"


def test_a_session_that_was_changed_in_its_middle_stays(root):
    """What `audit list` compares does not show it."""
    session = made.build(root, SESSIONS[0])
    log = made.log_of(session)
    log.write_bytes(log.read_bytes().replace(b"example.com", b"example.net"))
    choice = choose(root, Limits(keep=0))
    assert [one.outcome for one in clean_up(root, choice, dry_run=True)] == ["would-remove"]
    (left,) = clean_up(root, choice, dry_run=False)
    assert (left.outcome, left.reason.partition(":")[0]) == ("tampered", "leaf hash mismatch")
    assert session.exists()
    assert forget(root, SESSIONS[0])  # on purpose


def test_a_running_session_counts_and_a_late_clock_makes_a_session_new(root):
    built(root, SESSIONS[:2])
    running = made.running(root, "running")
    assert named(root, keep=2) == {SESSIONS[0]: "keep"}
    assert list(named(root, total_bytes=disk_size(running))) == SESSIONS[:2]
    crashed = made.unsealed(root, "crashed")
    os.utime(crashed / store.LOG, (0, datetime(2100, 1, 1, tzinfo=UTC).timestamp()))
    assert "crashed" not in named(root, since=datetime.now(UTC))


def test_a_session_that_starts_or_is_recovered_meanwhile_is_refused(root):
    """Its state is not known before its supervisor or recovery has let go of the log."""
    made.unsealed(root, "crashed")
    choice = choose(root, Limits(keep=0))
    with (root / "crashed" / store.LOG).open("rb") as log:
        made.fcntl.flock(log, made.fcntl.LOCK_EX)
        (left,) = clean_up(root, choice, dry_run=False)
        assert (left.outcome, cleanup.exit_code(iter([left.outcome]))) == ("running", 0)
        with pytest.raises(SessionInUse):
            forget(root, "crashed")
    assert (root / "crashed").exists()


def test_links_in_a_hostile_session_lead_nowhere(root, tmp_path):
    session, outside = made.build(root, SESSIONS[0]), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x" * 100_000)
    before = disk_size(session)
    (session / "link").symlink_to(outside)
    os.link(outside / "precious", session / "first")
    os.link(outside / "precious", session / "second")
    os.mkfifo(session / "pipe")
    (session / "below").mkdir()
    (session / "below" / "up").symlink_to("../..")
    (session / "sparse").touch()
    os.truncate(session / "sparse", 1 << 40)
    precious = (outside / "precious").stat().st_blocks * cleanup.BLOCK
    assert before + precious <= disk_size(session) < before + precious + 65_536  # once, no target
    assert cleaned(root, keep=0) == {SESSIONS[0]: "removed"}
    assert (outside / "precious").read_bytes() == b"x" * 100_000
    assert not session.exists()


def test_a_deep_tree_in_a_session_does_not_stop_the_others(root):
    deep = made.build(root, "1111111111111111")
    made.build(root, "2222222222222222")
    descriptor = os.open(deep, os.O_RDONLY)
    for _ in range(1200):  # deeper than Python recurses
        os.mkdir("x", dir_fd=descriptor)
        inner = os.open("x", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    done = list(clean_up(root, choose(root, Limits(keep=0)), dry_run=False))
    assert [one.outcome for one in done] == ["removed", "removed"]
    assert not [one for one in root.iterdir() if one.is_dir()]


def test_what_is_no_session_is_left_alone(root):
    built(root, SESSIONS[:1])
    (root / "notes").mkdir()
    (root / "notes" / "mine").touch()
    (root / "elsewhere").symlink_to(root / "notes")
    assert cleaned(root, keep=0) == {SESSIONS[0]: "removed"}
    assert (root / "notes" / "mine").exists()


def test_a_session_that_can_not_be_removed_does_not_stop_the_others(root, monkeypatch):
    built(root, SESSIONS[:2])
    remove = cleanup.forget.__globals__["remove_tree"]

    def refuse(path):
        if SESSIONS[0] in str(path):
            raise PermissionError(1, "Operation not permitted", str(path))
        remove(path)

    monkeypatch.setitem(cleanup.forget.__globals__, "remove_tree", refuse)
    outcomes = cleaned(root, keep=0)
    assert outcomes == {SESSIONS[0]: "failed", SESSIONS[1]: "removed"}
    assert cleanup.exit_code(iter(outcomes.values())) == 1
    assert [*verify_all(root, quick=False, jobs=1)] == []  # its line is there: no alarm


def forgotten_beside(root, line, monkeypatch):
    """Forget a session, and before the n-th line of that let another removal run, unless it would
    wait for ours. Return what each of both said, in the order in which they ended."""
    said, passed, held = [], 0, []
    to_append = ledger_append.to_append

    @contextlib.contextmanager
    def noted(audit_root):
        with to_append(audit_root):
            held.append(audit_root)
            yield
            held.clear()

    def removal():
        try:
            said.append(forget(root, SESSIONS[0], lambda directory: directory.stat()))
        except SessionInUse:
            said.append("in use")

    def trace(frame, event, _):
        nonlocal passed
        if frame.f_code.co_filename != forget.__code__.co_filename:
            return None
        passed += event == "line" and not held
        if passed == line and len(said) == 0:
            passed += 1
            sys.settrace(None)
            removal()
        return trace

    with monkeypatch.context() as patched:
        patched.setattr(ledger_append, "to_append", noted)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            removal()
        finally:
            sys.settrace(before)
    return said


def test_another_removal_may_come_before_each_line_of_one(root, monkeypatch):
    """One that came between two looks at the directory made the slower one fail."""
    for line in itertools.count(1):
        built(root, SESSIONS[:1])
        said = forgotten_beside(root, line, monkeypatch)
        assert not (root / SESSIONS[0]).exists()
        lines = [one.session_id for one in ledger.read(root)]
        assert lines == [SESSIONS[0], f"removed-{SESSIONS[0]}"]
        shutil.rmtree(root)
        root.mkdir(mode=0o700)
        if len(said) == 1:
            break
        assert said.count(True) == 1, (line, said)
    assert line > 20


def test_three_clean_ups_at_once_remove_each_session_once(root):
    """Two removals both added a line to the ledger, and one of them failed."""
    names = [f"{number:016x}" for number in range(12)]
    built(root, names)
    made.unsealed(root, "crashed")
    command = [sys.executable, "-m", "nono_trio", "audit", "cleanup", "--keep", "0", "--audit-dir"]
    running = [
        subprocess.Popen(
            [*command, root.parent], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    told = [one.communicate(timeout=CLEAN_SECONDS) for one in running]
    assert [one.returncode for one in running] == [0, 0, 0], told
    removed = [line.split()[1] for out, _ in told for line in out.splitlines() if "removed" in line]
    assert sorted(removed) == sorted([*names, "crashed"])
    lines = [one.session_id for one in ledger.read(root) if one.session_id.startswith("removed-")]
    assert sorted(lines) == sorted(f"removed-{name}" for name in [*names, "crashed"])
    assert [*verify_all(root, quick=False, jobs=1)] == []
