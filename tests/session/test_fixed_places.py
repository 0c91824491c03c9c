"""Programs that use fixed places of the host, in a cage without a mount view (landlock)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, RUN_SECONDS, as_user, guarded, landlock_isolation

if TYPE_CHECKING:
    from harness import Sessions

LANDLOCK = ("--isolation", "landlock")
GIT = "git init --quiet . && git status --short --branch && git config user.name"

# Its own process first: after this, only root may look into it.
# A program whose file may only be executed. The broker leaves PR_SET_DUMPABLE undone.
UNREADABLE = """
import os, shutil, tempfile
file = os.path.join(tempfile.gettempdir(), "program")
shutil.copy("/usr/bin/python3", file)
os.chmod(file, 0o111)
port = int(os.environ["HTTP_PROXY"].rpartition(":")[2].strip("/"))
connect = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})))"
os.execv(file, [file, "-c", connect])
"""


@landlock_isolation
@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
@pytest.mark.parametrize("name", [".gitconfig", ".config/git/config", ".config/git/ignore"])
@pytest.mark.parametrize("home", ["private", "closed"])
def test_git_works_beside_settings_that_it_may_not_read(
    sessions: Sessions, name: str, home: str
) -> None:
    settings = sessions.home / name
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("[user]\n\tname = somebody\n")
    work = sessions.home / "work"
    work.mkdir()
    done = sessions.run(
        "-s", *LANDLOCK, "--home", home, "--allow-cwd", "--", "sh", "-c", GIT, cwd=work
    )
    assert done.stderr == ""
    assert done.stdout.startswith("## No commits yet on ")
    assert "somebody" not in done.stdout


@landlock_isolation
def test_settings_of_gits_that_are_granted_are_used(sessions: Sessions) -> None:
    settings = sessions.home / ".gitconfig"
    settings.write_text("[user]\n\tname = somebody\n")
    done = sessions.run(
        "-s", *LANDLOCK, "--home", "closed", "--read-file", str(settings),
        "--", "git", "config", "user.name",
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("somebody\n", "")


@landlock_isolation
def test_temporary_files_at_fixed_places_go_to_the_sessions_directory(sessions: Sessions) -> None:
    script = 'echo "$TMPDIR|$TMUX_TMPDIR|$JAVA_TOOL_OPTIONS"'
    done = sessions.run("-s", *LANDLOCK, "--", "sh", "-c", script)
    temporary, tmux, java = done.stdout.strip().split("|")
    assert tmux == temporary
    assert java == f'-Djava.io.tmpdir="{temporary}"'
    done = sessions.run("-s", "--isolation", "namespace", "--", "sh", "-c", script)
    assert done.stdout.strip().split("|")[1:] == ["", ""]


@landlock_isolation
def test_shared_memory_is_named_with_its_grant(sessions: Sessions) -> None:
    lock = [*PYTHON_GRANTS, "--", sys.executable, "-c", "import multiprocessing as m; m.Lock()"]
    done = sessions.run(*LANDLOCK, *lock)
    assert done.returncode == 1
    assert "(multiprocessing.Lock) needs --allow /dev/shm" in done.stderr
    done = sessions.run(*LANDLOCK, "--allow", "/dev/shm", *lock)
    assert done.returncode == 0, done.stderr
    assert "/dev/shm" not in done.stderr


@guarded
@pytest.mark.parametrize("proc", ["plain", "hidepid"])
def test_a_program_that_cant_be_looked_into_is_recorded(proc: str) -> None:
    """Under hidepid it has no directory in /proc either: for an ordinary user, it is not there."""
    prefix, variables = as_user("ordinary", Path("/etc/passwd"))
    if os.geteuid() == 0 and shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    mount = "mount -t proc -o hidepid=2 proc /proc && " if proc == "hidepid" else ""
    if mount and os.geteuid() != 0:
        pytest.skip("only root can mount a /proc with hidepid")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        command = [
            *prefix, "-B", "-m", "nono_trio", "run", *LANDLOCK,
            "--", "/usr/bin/python3", "-c", UNREADABLE,
        ]  # fmt: skip
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'{mount}exec "$@"', "sh", *command],
            env={"PATH": os.environ["PATH"], "HOME": name, **variables},
            cwd=name, capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
        )  # fmt: skip
        logs = [*Path(name).glob(".local/state/nono-trio/audit/*/audit-events.ndjson")]
        assert done.stdout == "13\n", done.stderr
        assert "the program can't be looked into" in done.stderr
        assert "a connection of a program that can't be looked into" in logs[0].read_text()
