"""The command may open inherited streams again: files, and the terminal by a name."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import NONO_TRIO, RUN_SECONDS, as_user, landlock_isolation
from terminals import Terminal

if TYPE_CHECKING:
    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
USERS = ["root", "user"] if os.geteuid() == 0 else ["user"]

REOPEN = """
echo to stdout > /dev/stdout
echo to fd 2 > /dev/fd/2
read line < /dev/stdin; echo "read $line" >&2
(echo more >> /dev/stdin) 2>/dev/null && echo wrote to stdin >&2
(cat /dev/stdout) 2>/dev/null && echo read stdout >&2
exec 9>&2; (cat /proc/self/fd/9) 2>/dev/null && echo read stderr >&2
exit 0
"""


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_files_are_opened_again_as_they_were(open_place: Path, isolation: str, user: str) -> None:
    """Before: "permission denied", though the descriptor itself could be used. A stream for reading
    is not written by it, and one for writing is not read."""
    prefix, variables = as_user("root" if user == "root" else "nobody", Path(__file__))
    place = open_place / "streams"
    place.mkdir()
    place.chmod(0o755)
    state = open_place / "state"
    state.mkdir()
    state.chmod(0o777)
    (place / "in").write_text("hello\n")
    for name in ("in", "out", "err"):
        (place / name).touch()
        (place / name).chmod(0o666)
    with (
        open(place / "in", "rb") as given,
        open(place / "out", "wb") as out,
        open(place / "err", "ab") as err,
    ):
        done = subprocess.run(
            [*prefix, "-m", "nono_trio", "run", "-s", "--isolation", isolation,
             "--audit-dir", str(state / "own"), "--", "sh", "-c", REOPEN],
            env={"PATH": os.environ["PATH"], "HOME": "/", **variables},
            cwd="/", stdin=given, stdout=out, stderr=err, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
    told = (place / "err").read_text()
    assert done.returncode == 0, told
    assert (place / "out").read_text() == "to stdout\n", told
    assert "read hello" in told
    assert not {"wrote to stdin", "read stdout", "read stderr"} & set(told.splitlines())
    assert (place / "in").read_text() == "hello\n"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_closed_file_is_not_opened_again(sessions: Sessions, isolation: str) -> None:
    closed = sessions.home / ".ssh"
    closed.mkdir()
    (closed / "id").write_text("secret")
    with open(closed / "id", "rb") as given:
        done = sessions.run(
            "-s", "--isolation", isolation, "--", "sh", "-c", "cat; cat /dev/stdin", stdin=given
        )
    assert done.stdout == "secret"  # what was handed over, once
    assert done.returncode != 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_terminal_has_a_name(sessions: Sessions, isolation: str) -> None:
    """Before: `tty` said "not a tty" in namespace isolation, and /dev/stdout was refused."""
    sessions.variables["GPG_TTY"] = "/dev/pts/999"
    terminal = Terminal(
        sessions, "run", "-s", "--isolation", isolation, "--", "sh", "-c",
        "echo again > /dev/stdout; t=$(tty) && test -w $t && echo to $t > $t; echo GPG=$GPG_TTY.",
    )  # fmt: skip
    terminal.wait_for("GPG=", RUN_SECONDS)
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert "again" in terminal.seen
    named = "/dev/console" if isolation == "namespace" else "/dev/pts/"
    assert f"to {named}" in terminal.seen
    if isolation == "namespace":
        assert "GPG=/dev/console." in terminal.seen


def test_the_host_gets_no_console_file(sessions: Sessions) -> None:
    """Without the file sandbox the root is the host's."""
    before = os.path.exists("/dev/console") and os.lstat("/dev/console").st_rdev
    terminal = Terminal(
        sessions, "run", "-s", "--isolation", "namespace", "--no-sandbox", "--", "sh", "-c",
        "echo again > /dev/stdout; echo end.",
    )  # fmt: skip
    terminal.wait_for("end.", RUN_SECONDS)
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert "again" in terminal.seen
    after = os.path.exists("/dev/console") and os.lstat("/dev/console").st_rdev
    assert before == after
    assert not os.path.exists("/.nono-trio")


@landlock_isolation
@pytest.mark.skipif(shutil.which("script") is None, reason="there is no script(1)")
def test_pseudo_terminals_in_landlock_isolation(sessions: Sessions) -> None:
    """`why` names the two grants, and with them a program makes a terminal."""
    asked = sessions.call("why", "--isolation", "landlock", "--path", "/dev/ptmx")
    assert "--allow /dev/pts --allow-file /dev/ptmx" in asked.stdout
    grants = ["--allow", "/dev/pts", "--allow-file", "/dev/ptmx"]
    command = ["--", "script", "-qec", "tty", "/dev/null"]
    first = sessions.run("-s", "--isolation", "landlock", *command)
    assert first.returncode != 0
    done = sessions.run("-s", "--isolation", "landlock", *grants, *command)
    assert "/dev/pts/" in done.stdout, done.stderr
    assert stat.S_ISCHR(os.stat("/dev/ptmx").st_mode)


def test_why_knows_the_cages_own_terminals(sessions: Sessions) -> None:
    done = subprocess.run(
        [NONO_TRIO, "why", "--isolation", "namespace", "--path", "/dev/ptmx", "--op", "write"],
        env=sessions.environment, capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.stdout.startswith("allowed"), done.stdout
