"""The pager of long outputs: on a real terminal, with programs that stand for pagers."""

from __future__ import annotations

import shutil
import sys

import pytest
import sealed_session as made
from harness import NONO_TRIO
from terminals import Terminal

ROWS = 12
PREFIX = "sed s/^/paged:/"


@pytest.fixture
def many(sessions):
    for number in range(14):
        made.build(sessions.state / "audit", f"{number:x}123456789abcdef")
    sessions.variables = {"TERM": "xterm", "CI": "", "PAGER": PREFIX}
    return sessions


@pytest.fixture
def long_session(many):
    records = [made.network(number, path="/" + "x" * 300) for number in range(3000)]
    made.build(many.state / "audit", "long", payloads=[made.started(), *records, made.ended()])


def typed(sessions, command, before="", then=""):
    script = f"{before}stty rows {ROWS} cols 160; {NONO_TRIO} {command}; echo code $?{then}"
    return Terminal(sessions, "-c", script, program=("sh",))


def shown(sessions, command):
    terminal = typed(sessions, command)
    assert terminal.exit_code() == 0
    return terminal.seen


@pytest.mark.parametrize(
    "command", ["audit list", "audit search", "audit show 0", "audit search --host evil.test"]
)
def test_what_is_higher_than_the_terminal_is_paged(many, command):
    seen = shown(many, command)
    assert seen.count("paged:") > ROWS
    assert "code 0" in seen


@pytest.mark.parametrize("command", ["audit hosts", "audit search -n 3"])
def test_what_fits_is_not(many, command):
    seen = shown(many, command)
    assert "paged:" not in seen
    assert "evil.test" in seen
    assert "code 0" in seen


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("audit list --no-pager", {}),
        ("audit list --json", {}),
        ("audit search --json", {}),
        ("audit list | cat", {}),
        ("audit list </dev/null", {}),
        ("audit list", {"TERM": "dumb"}),
        ("audit list", {"CI": "true"}),
        ("audit list", {"PAGER": ""}),
        ("audit list", {"NONO_TRIO_PAGER": ""}),
        ("audit list", {"NONO_TRIO_NO_PAGER": "1"}),
    ],
)
def test_what_has_no_pager(many, command, variables):
    many.variables |= variables
    seen = shown(many, command)
    assert "paged:" not in seen
    assert "d123456789abcdef" in seen
    assert "code 0" in seen


def test_our_own_variable_wins_and_less_is_kept_from_starting_programs(many):
    script = many.home / "pager"
    script.write_text('#!/bin/sh\necho "secure=$LESSSECURE less=$LESS"; exec sed s/^/own:/\n')
    script.chmod(0o755)
    many.variables |= {"NONO_TRIO_PAGER": f"{script} -x", "LESSSECURE": "0", "LESS": "R"}
    seen = shown(many, "audit list")
    assert "secure=1 less=R" in seen
    assert "own:" in seen


@pytest.mark.parametrize("pager", ["true", "head -n 3", "sh -c 'exit 7'"])
def test_a_pager_that_ends_early_is_no_error(many, long_session, pager):
    many.variables |= {"PAGER": pager}
    seen = shown(many, "audit search")
    assert "code 0" in seen
    assert "error" not in seen
    assert seen.count("evil.test") <= 3


def test_a_pager_that_can_not_be_started_hides_nothing(many):
    many.variables |= {"PAGER": "/nowhere/pager"}
    seen = shown(many, "audit list")
    assert "nono-trio: the pager '/nowhere/pager' can't be started: No such file" in seen
    assert seen.count("123456789abcdef") == 14
    many.variables |= {"PAGER": "less '"}
    seen = shown(many, "audit list")
    assert "PAGER: expected a command, got" in seen
    assert "code 2" in seen


KEEPS_RAW = """
import os, signal, sys, termios, tty
signal.signal(signal.SIGINT, signal.SIG_IGN)
tty.setraw(sys.stdout.fileno(), termios.TCSANOW)
sys.stdin.readline()
sys.stdout.write("pager is up")
sys.stdout.flush()
{then}
"""


@pytest.mark.parametrize("then", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.stdin.read()"])
def test_a_pager_that_leaves_the_terminal_raw_is_cleaned_up_after(many, then):
    pager = many.home / "raw.py"
    pager.write_text(KEEPS_RAW.format(then=then))
    many.variables |= {"PAGER": f"{sys.executable} {pager}"}
    terminal = typed(many, "audit list", then="; stty -a")
    assert terminal.exit_code() == 0
    assert "code 0" in terminal.seen
    modes = terminal.seen.rpartition("code ")[2].split()
    assert {"icanon", "echo", "isig"} <= {*modes}


def test_ctrl_c_is_the_pagers_too_and_we_wait_for_it(many, long_session):
    """Without that the shell would read what is typed to the pager."""
    pager = many.home / "pager.py"
    pager.write_text(
        "import signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "print('pager is up', flush=True)\n"
        "signal.sigwait([signal.SIGINT])\n"  # we wait in a write: the pipe is full
        "print(len(sys.stdin.read()) < 500_000 and 'pager is done', flush=True)\n"
    )
    many.variables |= {"PAGER": f"{sys.executable} {pager}"}
    terminal = typed(many, "audit search", before="trap : INT; ", then="; stty -a")
    terminal.wait_for("pager is up")
    terminal.type("\x03")
    assert terminal.exit_code() == 0
    _, _, after = terminal.seen.partition("pager is done")
    assert "code 130" in after
    assert {"icanon", "echo", "isig"} <= {*after.split()}
    assert "Traceback" not in terminal.seen


@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")
def test_less_without_a_variable(many):
    del many.variables["PAGER"]
    terminal = typed(many, "audit list")
    terminal.wait_for("ID")
    terminal.type("q")
    assert terminal.exit_code() == 0
    assert "code 0" in terminal.seen
    assert "\x1b[?1049h" not in terminal.seen  # what was read stays on the screen
