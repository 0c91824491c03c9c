"""The terminal and the stderr that a hostile child shares: neither holds a session up, and the
terminal is as it was afterwards."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest
from deadlines import SECONDS
from harness import NONO_TRIO, PROBES, PYTHON_GRANTS, RUN_SECONDS, Sessions, wait_until
from terminals import Terminal

if TYPE_CHECKING:
    from pathlib import Path

TIMED_OUT = 124
TIOCGEXCL = 0x80045440


def words(*acts: str, options: tuple[str, ...] = ()) -> list[str]:
    """The arguments of a run of the probe."""
    return [
        "run", *options, *PYTHON_GRANTS, "--read", str(PROBES),
        "--", sys.executable, "-B", str(PROBES / "stall_terminal.py"), *acts,
    ]  # fmt: skip


@pytest.mark.parametrize("acts", [("off",), ("tostop",)])
def test_a_terminal_that_was_stopped_holds_up_nothing(
    sessions: Sessions, acts: tuple[str, ...]
) -> None:
    """With --follow the supervisor writes to it all the time; none of it is lost."""
    for seconds in SECONDS:
        options = ("--follow", "--timeout", str(seconds), "--grace", "1")
        terminal = Terminal(sessions, *words(*acts, "ask", "ask", "wait", options=options))
        assert terminal.exit_code(seconds + RUN_SECONDS) == TIMED_OUT
        if len(sessions.decisions()) == 3:  # both requests, and what became of them
            break
        shutil.rmtree(sessions.state)
    assert "denied.example.com" in terminal.seen
    assert "details: nono-trio audit show" in terminal.seen
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_the_terminal_is_put_back(sessions: Sessions) -> None:
    """Not exclusive, with its modes, and without what was typed for the child."""
    run = shlex.join([NONO_TRIO, *words("exclusive", "off", "raw", "read")])
    asked = f"import fcntl; print('exclusive:', fcntl.ioctl(0, {TIOCGEXCL}, bytes(4))[0])"
    ask = shlex.join([sys.executable, "-c", asked])
    script = f"{run}; echo code:$?; stty -a; {ask}; read line; echo got:$line"
    terminal = Terminal(sessions, program=["bash", "-c", script])
    wait_until(lambda: is_raw(terminal), "the child", RUN_SECONDS)
    terminal.type("xreply-to-a-query\n")
    terminal.wait_for("exclusive: 0", RUN_SECONDS)
    terminal.type("typed\n")
    terminal.wait_for("got:", RUN_SECONDS)
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert "got:typed" in terminal.seen
    assert " echo " in terminal.seen
    assert " icanon " in terminal.seen


def test_flags_of_what_is_shared_are_put_back(sessions: Sessions, tmp_path: Path) -> None:
    """Else the caller's shell reads and writes without blocking, and gets SIGIO."""
    log = (tmp_path / "log").open("a+")
    reading, writing = os.pipe()
    controlling, terminal = os.openpty()
    shared = [terminal, writing, log.fileno()]
    try:
        before = [fcntl.fcntl(one, fcntl.F_GETFL) for one in shared]
        done = subprocess.run(
            [NONO_TRIO, *words("flags", "ready")], env=sessions.environment, cwd=sessions.home,
            stdin=terminal, stdout=writing, stderr=log, check=False, timeout=RUN_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, (tmp_path / "log").read_text()
        assert os.read(reading, 100) == b"ready\n"
        assert [fcntl.fcntl(one, fcntl.F_GETFL) for one in shared] == before
    finally:
        log.close()
        for descriptor in (reading, writing, controlling, terminal):
            os.close(descriptor)


def test_in_a_pipe_the_modes_are_the_pagers(sessions: Sessions) -> None:
    run = shlex.join([NONO_TRIO, *words("exclusive", "raw", "ready")])
    terminal = Terminal(sessions, program=["bash", "-c", f"{run} | cat; stty -a"])
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert " -icanon " in terminal.seen


def is_raw(terminal: Terminal) -> bool:
    return not termios.tcgetattr(terminal.master)[3] & termios.ICANON


def test_a_file_that_is_appended_to_keeps_every_line(sessions: Sessions, tmp_path: Path) -> None:
    """The child clears O_APPEND and goes back to the beginning; it may cut the file, as its own
    stderr, but our lines go to the end of what there is."""
    log = tmp_path / "log"
    log.write_text("what the caller had before: " + "." * 2000 + "\n")
    with log.open("a") as stderr:
        done = subprocess.run(
            [NONO_TRIO, *words("ask", "unappend")], env=sessions.environment, cwd=sessions.home,
            stdin=subprocess.DEVNULL, stderr=stderr, check=False, timeout=RUN_SECONDS,
        )  # fmt: skip
    assert done.returncode == 0
    text = log.read_text()
    assert text.startswith("what the caller had before: " + "." * 2000 + "\n")
    assert "details: nono-trio audit show" in text


def test_a_full_pipe_made_non_blocking_gets_the_summary(sessions: Sessions) -> None:
    with subprocess.Popen(
        [NONO_TRIO, *words("ask", "fill", "ready")], env=sessions.environment, cwd=sessions.home,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: bool(sealed(sessions)), "the seal", RUN_SECONDS)
        assert process.stderr is not None
        assert "details: nono-trio audit show" in process.stderr.read()
        assert process.wait(RUN_SECONDS) == 0


def sealed(sessions: Sessions) -> bool:
    return '"sealed"' in (sessions.only / "session.json").read_text()


def test_a_background_run_is_not_stopped_by_its_child(sessions: Sessions) -> None:
    """A child that ignores SIGTTOU may set TOSTOP from the background as well."""
    run = shlex.join([
        NONO_TRIO, *words("tostop", "ask", options=("--follow", "--timeout", str(RUN_SECONDS))),
    ])  # fmt: skip
    script = f"set -m; {run} & wait $!; echo code:$?; stty -tostop"
    terminal = Terminal(sessions, program=["bash", "-c", script])
    assert terminal.exit_code(RUN_SECONDS) == 0
    assert "code:0" in terminal.seen
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_the_child_does_not_inherit_what_we_ignore(sessions: Sessions) -> None:
    done = sessions.run("-s", "--", "grep", "SigIgn", "/proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    assert not ignored >> (signal.SIGTTOU - 1) & 1
