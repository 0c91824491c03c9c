"""`audit cleanup`: what each limit names, and that nothing is half removed or followed."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sealed_session as made
from checkout import ROOT
from harness import as_user

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery import abandoned, cleanup
from nono_trio.audit.recovery.cleanup import Limits, choose, clean_up, disk_size
from nono_trio.audit.recovery.forget import SessionInUse, forget
from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import ledger_append
from nono_trio.cli.audit.verify import verify_all
from nono_trio.errors import NonoTrioError

SESSIONS = [f"{number:016x}" for number in range(4)]  # oldest first: the ledger's order
CLEAN_SECONDS = 60
USER = 65_534  # any uid except root's; it needs no account
ENDED = datetime.fromisoformat(made.ENDED)


@pytest.fixture(autouse=True)
def let_go():
    yield
    made.let_go()


@pytest.fixture
def users(open_place):
    """The audit directory of a user whom a mode locks out; as root we act as that user."""
    users = open_place / "audit"
    users.mkdir(mode=0o700)
    return users


def given(users):
    """Make the user the owner of all that is there."""
    if os.geteuid() == 0:
        for path in (users, *users.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)


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


@pytest.mark.parametrize(
    ("closed", "mode", "said"),
    [(store.LOG, 0o400, "is running"), (store.LOG, 0, "may be"), (".", 0, "may be running")],
)
def test_a_running_session_with_changed_modes_is_not_forgotten(users, closed, mode, said):
    """Before, what could not be opened for writing was taken for no log, so nothing was locked."""
    session = made.running(users)
    given(users)
    (session / closed).chmod(mode)
    with pytest.raises(NonoTrioError, match=said) as raised:
        forget(users, session.name)
    assert raised.value.hint is not None
    assert session.exists()
    assert ledger.verify(users).count == 0
    (session / closed).chmod(0o700)
    with pytest.raises(SessionInUse, match="is running"):
        forget(users, session.name)
    made.let_go()
    assert forget(users, session.name)


@pytest.mark.parametrize("kind", ["gone", "link"])
def test_a_running_session_whose_log_was_renamed_is_not_forgotten(root, kind):
    """There is no log to lock, but its supervisor is there."""
    session = made.running(root)
    log = session / store.LOG
    log.rename(session / "kept")
    if kind == "link":
        log.symlink_to("kept")
    with pytest.raises(SessionInUse, match="is running"):
        forget(root, session.name)
    assert cleaned(root, keep=0).get(session.name) != "removed"
    assert (session / "kept").exists()


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "socket"])
def test_a_session_with_something_else_as_its_log_is_forgotten(root, tmp_path, monkeypatch, kind):
    log = made.build(root, SESSIONS[0]) / store.LOG
    log.unlink()
    if kind == "directory":
        log.mkdir()
    elif kind == "pipe":
        os.mkfifo(log)
    elif kind == "link":
        log.symlink_to(tmp_path)
    else:
        monkeypatch.chdir(log.parent)  # its path is too long for the address of a socket
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(log.name)
    assert forget(root, SESSIONS[0])
    assert not (root / SESSIONS[0]).exists()


def test_a_session_that_can_not_be_looked_into_counts_and_stays(users):
    """Before, `cleanup` left it out without a word."""
    first, second = built(users, SESSIONS[:2])
    given(users)
    first.chmod(0)
    prefix, variables = as_user("nobody", Path(__file__))
    command = ["-B", "-m", "nono_trio", "audit", "cleanup", "--keep=0", "--audit-dir", users.parent]
    done = subprocess.run(
        [*prefix, *command], env={"PATH": os.environ["PATH"], "HOME": "/", **variables},
        capture_output=True, text=True, timeout=CLEAN_SECONDS, check=False, cwd="/",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    told = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert told == {first.name: "tampered", second.name: "removed"}, done.stderr
    assert done.returncode == 1
    assert not second.exists()
    assert first.exists()


def test_one_session_of_another_user_does_not_stop_the_others(users):
    built(users, SESSIONS[:2])
    given(users)
    if os.geteuid() != 0:
        pytest.skip("only root can give a session to another user")
    os.chown(users / SESSIONS[0], 0, 0)
    (users / SESSIONS[0]).chmod(0o755)
    assert cleaned(users, keep=0) == {SESSIONS[0]: "failed", SESSIONS[1]: "removed"}
    assert (users / SESSIONS[0]).exists()


def test_what_a_mode_locks_out_is_removed(users):
    """Before, half of it stayed for ever, and each later cleanup said nothing of it."""
    first, second = built(users, SESSIONS[:2])
    hidden = first.rename(users / (store.REMOVING + first.name))
    for directory in (hidden, second):
        (directory / "in" / "ner").mkdir(parents=True)
        (directory / "in" / "ner" / "file").touch()
    given(users)
    for directory in (hidden, second):
        for closed in ("in/ner", "in"):
            (directory / closed).chmod(0)
    os.utime(hidden, (0, 0))
    hidden.chmod(0)
    assert abandoned.remove_abandoned(users) == (1, [])
    assert forget(users, second.name)
    assert not [one for one in users.iterdir() if one.is_dir()]


def test_an_old_start_whose_log_can_not_be_opened_may_be_at_work(users):
    start = users / f"{store.STARTING}{SESSIONS[0]}"
    start.mkdir(mode=0o700)
    (start / store.LOG).touch(mode=0o000)
    given(users)
    os.utime(start, (0, 0))
    removed, (error,) = abandoned.remove_abandoned(users)
    assert (removed, start.exists()) == (0, True)
    assert f"chmod u+rw {start / store.LOG}" == error.hint


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_in_the_place_of_a_half_removed_session_is_no_obstacle(root, tmp_path, is_link):
    built(root, SESSIONS[:2])
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in SESSIONS[:2]:
        obstacle = root / (store.REMOVING + name)
        obstacle.symlink_to(outside) if is_link else obstacle.touch()
        os.utime(obstacle, (0, 0), follow_symlinks=False)
    assert forget(root, SESSIONS[0])
    assert abandoned.remove_abandoned(root) == (1, [])
    assert [one.name for one in root.iterdir() if one.name.startswith(store.REMOVING)] == []
    assert outside.exists()


def test_a_start_that_has_not_locked_its_log_yet_is_left_alone(root):
    """Before, a clean-up between the two took the start's directory away."""
    hidden = made.unsealed(root).rename(root / f"{store.STARTING}0123456789abcdef")
    assert abandoned.remove_abandoned(root) == (0, [])
    os.utime(hidden, (0, 0))
    with (hidden / store.LOG).open("rb") as log:
        made.fcntl.flock(log, made.fcntl.LOCK_EX)
        assert abandoned.remove_abandoned(root) == (0, [])
    assert abandoned.remove_abandoned(root) == (1, [])
    assert not hidden.exists()


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
