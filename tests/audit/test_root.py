"""Root in directories that a user fills: it acts as that user, and trusts no pid of theirs."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sealed_session as made
import signed_session
from archived import archive_file
from harness import NONO_TRIO, RUN_SECONDS, as_user
from signed_session import signer

from nono_trio.audit import store
from nono_trio.errors import NonoTrioError
from nono_trio.posix import process_info
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.session import processes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts for others")

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def home(open_place: Path) -> Path:
    """The home of an ordinary user, who may reach it."""
    home = open_place / "nobody"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    return home


def owners(directory: Path) -> set[int]:
    return {path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


def as_root(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `sudo -E nono-trio ARGUMENTS`: root, with the user's home."""
    return subprocess.run(
        [NONO_TRIO, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd="/",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("isolation", ["namespace", "landlock"])
def test_roots_run_in_a_users_home_leaves_nothing_of_roots(home: Path, isolation: str) -> None:
    done = as_root(home, "run", "-s", "--isolation", isolation, "--", "true")
    assert done.returncode == 0, done.stderr
    assert owners(home) == {NOBODY.pw_uid}
    done = as_root(home, "audit", "verify", "latest")
    assert done.returncode == 0, done.stdout
    assert owners(home) == {NOBODY.pw_uid}


def test_the_user_goes_on_after_it(home: Path) -> None:
    """Before: the ledger was root's, and every later session of the user ended with 4."""
    prefix, variables = as_user("nobody", Path(__file__))
    assert as_root(home, "run", "-s", "--", "true").returncode == 0
    for arguments in (["run", "-s", "--", "true"], ["audit", "verify", "--all"]):
        done = subprocess.run(
            [*prefix, "-B", "-m", "nono_trio", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(home), **variables},
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd="/",
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
    assert len(list((home / ".local/state/nono-trio/audit").glob("*/session.json"))) == 2


def test_an_archive_of_roots_becomes_the_users_session(home: Path, tmp_path: Path) -> None:
    """The archive is root's alone; what is imported, removed and written for it is the user's."""
    archive, state = tmp_path / "session.tar", home / ".local/state/nono-trio"
    session = made.build(tmp_path / "root" / "audit")
    done = as_root(
        home, "audit", "export-session", session.name, "-o", str(archive),
        "--audit-dir", str(tmp_path / "root"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for arguments in (["import", str(archive)], ["verify", "--all"]):
        assert as_root(home, "audit", *arguments).returncode == 0
        assert owners(home) == {NOBODY.pw_uid}
    prefix, variables = as_user("nobody", Path(__file__))
    for arguments in (["export-session", session.name, "-o", "mine.tar"], ["cleanup", "--keep=0"]):
        done = subprocess.run(
            [*prefix, "-B", "-m", "nono_trio", "audit", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(home), **variables},
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd=home,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
    assert (home / "mine.tar").read_bytes() == archive.read_bytes()
    assert not (state / "audit" / session.name).exists()
    assert as_root(home, "audit", "import", str(home / "mine.tar")).returncode == 0
    assert as_root(home, "audit", "cleanup", "--keep", "0").returncode == 0
    assert owners(home) == {NOBODY.pw_uid}
    assert not (state / "audit" / session.name).exists()


# A program in root's home: its modules can't be read by the user as whom root acts.
IMPORTING_AS_ROOT_ONLY = """
import os, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if os.geteuid():
            raise ModuleNotFoundError(name)

from nono_trio.cli.main import exit_code
sys.meta_path.insert(0, Refusing())
sys.exit(max(exit_code(words.split()) for words in sys.argv[1:]))
"""


def test_root_needs_no_module_while_it_acts_as_a_user(home: Path, tmp_path: Path) -> None:
    """Before: an import or a removal of a signed session ended with a traceback."""
    archive = archive_file(tmp_path, signed_session.sealed(tmp_path / "audit", signer()))
    crashed = signed_session.crashed(tmp_path / "state" / "audit", signer(), session_id="c" * 16)
    state = home / "state"
    shutil.copytree(crashed.parent.parent, state)
    for path in (state, *state.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    place = f"--audit-dir {state}"
    done = subprocess.run(
        [
            sys.executable, "-c", IMPORTING_AS_ROOT_ONLY,
            f"audit import {archive} {place}", f"audit recover --all {place}",
            f"audit cleanup --keep 0 {place}",
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd="/",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 sessions removed" in done.stderr
    assert owners(home) == {NOBODY.pw_uid}


@pytest.mark.parametrize("link", [".local", ".local/state", ".local/state/nono-trio/audit"])
def test_a_users_symlink_leads_root_nowhere(home: Path, tmp_path: Path, link: str) -> None:
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o755)
    path = home / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(roots)
    for made_here in (path, *path.parents):
        if made_here == home:
            break
        os.chown(made_here, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    done = as_root(home, "run", "-s", "--", "true")
    assert done.returncode == 4
    assert "Permission denied" in done.stderr
    assert "hint: " in done.stderr
    assert list(roots.iterdir()) == []


def test_a_profile_that_root_begins_is_the_users(home: Path) -> None:
    assert as_root(home, "profile", "init", "mine").returncode == 0
    assert owners(home) == {NOBODY.pw_uid}


def test_it_is_this_thread_and_for_the_body_only(home: Path, tmp_path: Path) -> None:
    with as_owner_of_path(home / "a" / "b"):
        with as_owner_of_path(home):
            (home / "a").mkdir()
        (home / "b").touch()
        with pytest.raises(PermissionError):
            (tmp_path / "c").touch()
        assert os.geteuid() == 0
    (tmp_path / "c").touch()
    assert owners(home) == {NOBODY.pw_uid}
    assert (tmp_path / "c").stat().st_uid == 0
    with as_owner_of_path(Path("/tmp/not-there")):  # writable for everybody, so without an owner
        (tmp_path / "d").touch()


# -- stop, ps, inspect ----------------------------------------------------------------------------

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "rb+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def named_by_a_user(home: Path, process: subprocess.Popen[str]) -> Path:
    """A running session that the user made up around a process."""
    directory = made.unsealed(
        home / "audit",
        supervisor_pid=process.pid,
        supervisor_start_ticks=process_info.process_start_ticks(process.pid),
        boot_id=process_info.boot_id(),
    )
    for path in (home / "audit", directory, *directory.iterdir()):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    return directory


@pytest.mark.parametrize("held", [False, True])
def test_a_process_of_roots_that_a_user_names_is_never_signalled(home: Path, held: bool) -> None:
    """Before: `stop` as root ended whatever process of root's session.json named."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], text=True
    ) as process:
        directory = named_by_a_user(home, process)
        holder = held and subprocess.Popen(  # the user holds the lock, the pid is still root's
            [sys.executable, "-c", HOLDER, directory / store.LOG], stdout=subprocess.PIPE, text=True
        )
        if holder and holder.stdout:
            assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(NonoTrioError, match="is not running"):
                processes.stop(directory, 1)
            stored = store.StoredSession(directory=directory, summary=store.read_summary(directory))
            seen = processes.look_at(stored)
            assert (seen.status, seen.supervisor_pid) == ("crashed", None)
            done = as_root(home, "inspect", "--json", str(directory))
            assert json.loads(done.stdout)["supervisor_pid"] is None
            assert process.poll() is None
        finally:
            process.kill()
            if holder:
                holder.kill()
                holder.communicate()


def test_a_process_of_the_users_own_without_the_lock_is_not_signalled(home: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"], text=True, user=NOBODY.pw_uid) as process:
        directory = named_by_a_user(home, process)
        with pytest.raises(NonoTrioError, match="is not running"):
            processes.stop(directory, 1)
        assert process.poll() is None
        process.kill()
