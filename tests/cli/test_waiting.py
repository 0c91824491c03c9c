"""The line of long work: on a person's terminal only, after a second, gone at the end."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
import time

import pytest
import sealed_session as made
from harness import RUN_SECONDS
from rich.cells import cell_len
from terminals import Terminal

from nono_trio.audit.verify.session import verify
from nono_trio.cli import waiting
from nono_trio.cli.waiting import Waiting

WIPE = "\r\x1b[K"


class Pty:
    """A pty that is stderr inside of `with`; `seen` is what it got."""

    def __init__(self, columns):
        self._replaced = None  # by __enter__
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._slave = self.stream = os.fdopen(slave, "w", encoding="utf-8", buffering=1)
        self.seen = ""

    def __enter__(self):
        self._replaced, sys.stderr = sys.stderr, self.stream
        return self

    def __exit__(self, *_error):
        sys.stderr = self._replaced

    def wait_for(self, pattern):
        deadline = time.monotonic() + RUN_SECONDS
        while not re.search(pattern, self.seen):
            left = max(0, deadline - time.monotonic())
            ready, _, _ = select.select([self._master], [], [], left)
            assert ready, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self._master, 65_536).decode()

    def rest(self):
        """All that was written so far."""
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 65_536).decode()
        return self.seen

    def close(self):
        self._slave.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch, request):
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(waiting, "AFTER_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "TICK_SECONDS", 0.01)
    opened = Pty(getattr(request, "param", 80))
    yield opened
    opened.close()


def test_it_turns_and_is_wiped_at_the_end(terminal):
    with terminal, Waiting("reading the log"):
        terminal.wait_for(r"\| reading the log.*/ reading the log")
    assert terminal.rest().endswith(WIPE)
    assert "\x1b[?25" not in terminal.seen  # the cursor was never hidden


def test_items_are_counted_and_each_is_printed_on_a_clean_line(terminal):
    def work():
        for number in (1, 2, 3, 4):
            terminal.wait_for(rf"verifying {number} of 4 \[")
            yield number

    with terminal, Waiting("verifying") as wait:
        wait.expect(4)
        for number in wait.over(work()):
            assert terminal.rest().endswith(WIPE)
            print(f"item {number}", file=sys.stderr)
    shown = terminal.rest()
    for number in (1, 2, 3, 4):
        assert f"{WIPE}item {number}\r\n" in shown
    assert re.search(r"verifying 3 of 4 \[#{12} +\]  50%", shown)


def test_the_share_of_one_item_has_a_bar(terminal):
    def work():
        terminal.wait_for(r"verifying \[#{6} {18}\]  25%")
        yield "done"

    with terminal, Waiting("verifying") as wait:
        wait.watch(lambda: 0.25)
        assert [*wait.over(work())] == ["done"]


@pytest.mark.parametrize("terminal", [12, 40], indirect=True)
def test_it_never_fills_a_line(terminal):
    with terminal, Waiting("verifying and reading") as wait:
        wait.expect(10**9)
        terminal.wait_for(r"- ver.*\\ ver")
    width = os.get_terminal_size(terminal.stream.fileno()).columns
    lines = terminal.rest().split(WIPE)
    assert 0 < max(map(cell_len, lines)) < width


def test_an_error_wipes_it(terminal):
    def fail():
        terminal.wait_for("reading")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), terminal, Waiting("reading"):
        fail()
    assert terminal.rest().endswith(WIPE)


@pytest.mark.parametrize("forbidden", ["pipe", "NO_COLOR", "CI", "background", "closed"])
def test_elsewhere_nothing_is_written_and_no_thread_started(terminal, monkeypatch, forbidden):
    monkeypatch.setattr(waiting.threading, "Thread", None)
    if forbidden == "pipe":
        monkeypatch.setattr(terminal, "stream", io.StringIO())
    elif forbidden == "closed":
        monkeypatch.setattr(terminal, "stream", None)
    elif forbidden == "background":
        monkeypatch.setattr(os, "tcgetpgrp", lambda _descriptor: os.getpgrp() + 1)
    else:
        monkeypatch.setenv(forbidden, "1")
    with terminal, Waiting("verifying") as wait:
        assert [*wait.over([1, 2])] == [1, 2]
    assert terminal.rest() == ""


def test_it_stops_while_a_shell_has_it_in_the_background(terminal, monkeypatch):
    ahead = [os.getpgrp()] * 3

    def group(_descriptor):
        if ahead:
            return ahead.pop()
        asked.set()
        return os.getpgrp() + 1

    asked = threading.Event()
    monkeypatch.setattr(os, "tcgetpgrp", group)
    with terminal, Waiting("verifying"):
        terminal.wait_for("verifying.*verifying")
        assert asked.wait(RUN_SECONDS)
    assert terminal.rest().count("verifying") == 2
    assert not terminal.seen.endswith(WIPE)


def test_quick_work_shows_nothing(terminal, monkeypatch):
    monkeypatch.setattr(waiting, "AFTER_SECONDS", 600.0)
    with terminal, Waiting("verifying") as wait:
        assert [*wait.over(range(3))] == [0, 1, 2]
    assert terminal.rest() == ""


def test_ctrl_c_leaves_a_clean_line_and_a_cursor(sessions):
    code = (
        "import os, signal, sys; from nono_trio.cli import main, waiting\n"
        "from nono_trio.cli.audit import listing\n"
        "waiting.AFTER_SECONDS = 0.0\n"
        "def listed(*_): os.write(2, b'[listing]'); signal.pause()\n"
        "listing.listed = listed\n"
        "sys.argv[1:] = ['audit', 'list']; main.main()"
    )
    sessions.variables = {"TERM": "xterm"}
    terminal = Terminal(sessions, "-c", code, program=(sys.executable,))
    terminal.wait_for("[listing]")  # not before: the line is wiped by what has begun
    terminal.wait_for("/ reading the sessions")
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    assert terminal.seen.endswith(WIPE)
    assert "\x1b[?25" not in terminal.seen


def test_verifying_says_how_far_it_is(root):
    directory = made.build(root)
    shares = []

    def watch(share):
        shares.append(share())
        shares.append(share)

    assert verify(directory, watch=watch).verdict == "verified"
    assert (shares[0], shares[1]()) == (0.0, 1.0)
