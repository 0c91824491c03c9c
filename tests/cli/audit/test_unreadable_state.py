"""A state directory that can't be read: each command says so, with a hint, and ends with 2."""

from __future__ import annotations

import errno
import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest
import sealed_session as made
from harness import RUN_SECONDS, as_user

from nono_trio.cli.output_file import output_file
from nono_trio.errors import UsageError

COMMANDS = [
    "list", "show latest", "tail", "search", "hosts", "learn latest", "verify --all",
    "export --all", "cleanup --keep 1", "recover --all", "forget latest", "forget 0123456789abcdef",
    "ledger verify", "export-session latest -o {place}", "report --all -o {place}",
    "ship --all --to file://{place}",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_directory_of_the_sessions_can_not_be_read(run, root, tmp_path, command):
    root.write_text("no directory")
    words = command.format(place=tmp_path / "place").split()
    code, out, err = run("audit", *words)
    assert code == 2
    assert "can't be" in out + err
    assert "ls -ld" in out + err
    assert not (tmp_path / "place").exists()


def test_the_progress_of_ship_can_not_be_kept(run, root, tmp_path):
    root.mkdir()
    (tmp_path / "ship").write_text("no directory")
    code, _, err = run("audit", "ship", "--all", "--to", f"file://{tmp_path}/out")
    assert (code, "the progress can't be kept" in err) == (2, True)
    assert f"hint: look at it: ls -ld {tmp_path}\n" in err


def test_a_disk_without_room_is_looked_at_as_a_disk(tmp_path):
    def fail():
        with output_file(str(tmp_path / "new"), replace=False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UsageError) as raised:
        fail()
    assert raised.value.hint == f"see what room is left: df -h {tmp_path}"


@pytest.mark.parametrize("url", ["https://a.example/session.tar", "s3://bucket/session.tar"])
def test_an_archive_at_a_url_is_not_imported(run, url):
    code, _, err = run("audit", "import", url)
    assert (code, f"expected a file, got the URL {url}" in err, "hint: copy" in err) == (
        2,
        True,
        True,
    )


LOCKED, OTHERS = "aaaa000000000000", {"0123456789abcdef", "fedcba9876543210"}


@pytest.fixture
def call(open_place):
    """A command line of an ordinary user who has three sessions, one that no one may look into."""
    prefix, variables = as_user("nobody", Path(__file__))
    root = open_place / "state" / "audit"
    for session_id in OTHERS:
        made.build(root, session_id)
    locked = made.unsealed(root, LOCKED)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (root.parent, *root.parent.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    locked.chmod(0)

    def call(*words):
        done = subprocess.run(
            [*prefix, "-B", "-m", "nono_trio", *words],
            env={
                "PATH": os.environ["PATH"], "NONO_TRIO_STATE_DIR": str(root.parent), **variables
            },
            cwd="/", capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    yield call
    locked.chmod(0o700)


def test_a_session_that_can_not_be_read_hides_no_other(call, open_place):
    code, out, err = call("audit", "list", "--json")
    rows = {row["session_id"]: row["status"] for row in json.loads(out)["sessions"]}
    assert (code, rows) == (0, {LOCKED: "tampered"} | dict.fromkeys(OTHERS, "sealed")), err
    for words in (["audit", "list"], ["ps", "--all"]):
        code, out, err = call(*words)
        assert (code, {one for one in (LOCKED, *OTHERS) if one in out}) == (0, {LOCKED, *OTHERS})
        assert "(can't be read)" in out
    code, out, err = call("audit", "hosts", "--json")
    assert {host["host"] for host in json.loads(out)["hosts"]} == {"example.com", "evil.test"}
    assert (code, f"1 session ({LOCKED}) can't be read" in err) == (2, True), err
    page = open_place / "page.html"
    if os.geteuid() == 0:
        open_place.chmod(0o777)
    code, out, err = call("audit", "report", "--all", "-o", str(page))
    assert code in (0, 1), err
    assert all(one in page.read_text() for one in (LOCKED, *OTHERS))


def test_cleanup_counts_a_session_that_can_not_be_read(call):
    code, out, err = call("audit", "cleanup", "--keep", "0", "--dry-run", "--json")
    outcomes = {one["session_id"]: one["outcome"] for one in json.loads(out)["sessions"]}
    assert outcomes == {LOCKED: "tampered"} | dict.fromkeys(OTHERS, "would-remove"), err
    assert code == 1
