"""The command lines of `audit export-session` and `audit import`, with real sessions."""

from __future__ import annotations

import errno
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import archived
import crashed_session
import pytest
import sealed_session as made
from archived import ID, parts
from checkout import ROOT
from harness import as_user

from nono_trio.audit import ledger, store
from nono_trio.audit.archive import import_session
from nono_trio.cli.audit.verify import verify_all

SECRET = "sk-ant-" + 40 * "s"
COMMAND_SECONDS = 60


@pytest.fixture(autouse=True)
def let_go():
    yield
    made.let_go()


def test_a_real_signed_session_with_a_credential_goes_to_another_machine(sessions, tmp_path):
    """A run, its archive, its proof by the pinned key, and its import."""
    path, key, other = tmp_path / "session.tar", tmp_path / "key.pem", tmp_path / "other"
    sessions.call("keys", "generate")
    key.write_text(sessions.call("keys", "export").stdout)
    sessions.variables["MY_KEY"] = SECRET
    flags = ["--credential", "anthropic=env://MY_KEY", "--audit-sign-key", "default"]
    run = sessions.call("run", "--silent", *flags, "--", "true")
    assert run.returncode == 0, run.stderr
    done = sessions.call("audit", "export-session", "latest", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    assert SECRET.encode() not in path.read_bytes()
    pinned = ["--public-key-file", str(key)]
    for command in (["verify", str(path)], ["import", str(path), "--audit-dir", str(other)]):
        done = sessions.call("audit", *command)
        assert (done.returncode, "self-attested" in done.stdout) == (0, True), done.stderr
        done = sessions.call("audit", *command, *pinned)
        assert (done.returncode, "self-attested" in done.stdout) == (0, False), done.stderr
        assert "by the pinned key" in done.stdout
    done = sessions.call("audit", "verify", "--all", "--audit-dir", str(other))
    assert (done.returncode, "it was imported at" in done.stdout) == (0, True)
    shown = sessions.call("audit", "show", "--audit-dir", str(other)).stdout
    assert "\n  imported     20" in shown


def test_it_writes_no_file_that_exists_and_leaves_none_behind(run, root, tmp_path):
    archived.sealed(root)
    path = tmp_path / "session.tar"
    path.write_text("mine")
    code, _, err = run("audit", "export-session", ID, "-o", path)
    assert (code, path.read_text(), "--force" in err) == (2, "mine", True)
    assert run("audit", "export-session", ID, "-o", path, "--force")[0] == 0
    assert run("audit", "verify", path)[0] == 0
    assert run("audit", "export-session", ID, "-o", tmp_path)[0] == 2
    code, _, err = run("audit", "export-session", ID, "-o", tmp_path / "none" / "x")
    assert (code, "hint: " in err) == (2, True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit", "session.tar"]


def test_an_archive_goes_through_a_pipe(root, tmp_path):
    archived.sealed(root)
    command = [sys.executable, "-m", "nono_trio", "audit", "export-session", ID, "-o", "-"]
    done = subprocess.run(
        [*command, "--audit-dir", tmp_path], cwd=ROOT, capture_output=True, timeout=COMMAND_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert f"{ID}/session.json" in parts(done.stdout)


def test_a_session_that_is_not_verified_is_not_exported(run, root, tmp_path):
    path = tmp_path / "session.tar"
    made.running(root, "1111111111111111")
    crashed_session.torn(root)
    tampered = made.build(root, "2222222222222222")
    made.change_session(tampered, command=["another"])
    made.build(root, "short")
    for session, code, hint in (
        ("1111111111111111", 5, "nono-trio stop"),
        (ID, 6, "nono-trio audit recover"),
        ("2222222222222222", 1, "nono-trio audit verify"),
        ("short", 2, "16 lower-case hex digits"),
        ("nothing", 2, "nono-trio audit list"),
    ):
        got, _, err = run("audit", "export-session", session, "-o", path)
        assert (session, got, hint in err) == (session, code, True)
        assert not path.exists()
    got, out, _ = run("audit", "export-session", ID, "-o", path, "--json")
    assert (got, json.loads(out)["verdict"]) == (6, "crashed")


def test_json_and_lists_say_that_a_session_is_imported(run, root, tmp_path):
    path = archived.archive_file(tmp_path, archived.sealed(root))
    other = tmp_path / "other"
    code, out, _ = run("audit", "import", path, "--audit-dir", other, "--json")
    answer = json.loads(out)
    assert (code, answer["imported"], answer["verification"]["verdict"]) == (0, True, "verified")
    assert not json.loads(run("audit", "import", path, "--audit-dir", other, "--json")[1])[
        "imported"
    ]
    assert "imported" in run("audit", "list", "--audit-dir", other)[1]
    (row,) = json.loads(run("audit", "list", "--audit-dir", other, "--json")[1])["sessions"]
    assert (row["status"], row["proved"], row["imported"][:2]) == ("sealed", True, "20")
    assert "imported" in run("audit", "show", ID, "--audit-dir", other)[1]
    assert "imported" not in run("audit", "list")[1]
    code, _, err = run("audit", "verify", path, "--since", root / ID / store.CHECKPOINTS)
    assert (code, "--since: expected a session, got the archive" in err) == (2, True)


def test_imports_at_once_import_a_session_once(root, tmp_path):
    path, other = archived.archive_file(tmp_path, archived.signed(root)), tmp_path / "other"
    command = [sys.executable, "-m", "nono_trio", "audit", "import", path, "--audit-dir", other]
    running = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    told = [one.communicate(timeout=COMMAND_SECONDS) for one in running]
    assert [one.returncode for one in running] == [0, 0, 0], told
    assert sum("is imported" in err for _, err in told) == 1
    audit = other / "audit"
    assert [one.session_id for one in ledger.read(audit)] == [f"imported-{ID}"]
    assert [one.verdict for one in verify_all(audit, quick=False, jobs=1)] == ["verified"]
    assert [name for name in os.listdir(audit) if name.startswith(".")] == []


def test_no_link_in_a_session_brings_a_file_of_the_machine_into_its_archive(run, root, tmp_path):
    """Nothing binds the torn ends: root would archive /etc/shadow with a user's session."""
    directory = archived.sealed(root)
    (tmp_path / "secret").write_text("root:$6$secret")
    (directory / f"{store.LOG}.torn").symlink_to(tmp_path / "secret")
    output = tmp_path / "session.tar"
    code, _, err = run("audit", "export-session", ID, "-o", output)
    assert (code, f"{store.LOG}.torn" in err, output.exists()) == (2, True, False)


def test_a_directory_that_takes_no_session_is_named(run, root, tmp_path, open_place):
    path = archived.archive_file(tmp_path, archived.sealed(root))
    code, _, err = run("audit", "import", path, "--audit-dir", "/sys/nono-trio")
    assert (code, "the session can't be written to /sys: " in err) == (4, True), err
    assert "hint: look at it: ls -ld /sys\n" in err
    prefix, variables = as_user("nobody", Path(__file__))
    (open_place / "session.tar").write_bytes(path.read_bytes())
    (open_place / "session.tar").chmod(0o644)
    audit = open_place / "state" / "audit"
    audit.mkdir(parents=True)
    if os.geteuid() == 0:
        for directory in (audit, audit.parent):
            os.chown(directory, pwd.getpwnam("nobody").pw_uid, -1)
    audit.chmod(0o500)
    done = subprocess.run(
        [*prefix, "-B", "-m", "nono_trio", "audit", "import", open_place / "session.tar"],
        env={"PATH": os.environ["PATH"], "NONO_TRIO_STATE_DIR": str(audit.parent), **variables},
        cwd="/", capture_output=True, text=True, timeout=COMMAND_SECONDS,
    )  # fmt: skip
    text = f"the session can't be written to {audit}: Permission denied"
    assert (done.returncode, text in done.stderr) == (4, True), done.stderr
    assert f"hint: look at it: ls -ld {audit}\n" in done.stderr
    audit.chmod(0o700)


def test_what_an_import_left_that_was_killed_before_the_name_is_finished(run, root, tmp_path):
    path, other = archived.archive_file(tmp_path, archived.sealed(root)), tmp_path / "other"
    here = ["--audit-dir", other]
    assert run("audit", "import", path, *here)[0] == 0
    hidden = other / "audit" / f"{store.IMPORTING}{ID}.0123456789abcdef"
    hidden.mkdir()
    (other / "audit" / ID).rename(hidden / ID)
    code, out, err = run("audit", "verify", ID, *here)
    assert (code, "imported, and its import was not finished" in out) == (1, True), out
    assert "hint: import its archive again, or in a minute: nono-trio audit recover " in err
    os.utime(hidden, (0, 0))
    assert run("audit", "recover", "--all", *here)[0] == 0
    assert run("audit", "verify", ID, *here)[0] == 0


def test_a_place_without_room_is_named_and_not_what_was_read(run, root, tmp_path, monkeypatch):
    path = archived.archive_file(tmp_path, archived.sealed(root))

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(import_session, "import_archive", full)
    code, _, err = run("audit", "import", path, "--audit-dir", tmp_path / "other")
    assert (code, f"can't be written to {tmp_path}/other" in err, "df -h" in err) == (4, True, True)
    with open("/dev/full", "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "nono_trio", "audit", "export-session", ID, "-o", "-"],
            cwd=ROOT, stdout=output, stderr=subprocess.PIPE, timeout=COMMAND_SECONDS,
        )  # fmt: skip
    assert done.returncode == 1
    assert b"the output can't be written" in done.stderr
