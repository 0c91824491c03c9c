"""Asking a command: one that hangs, one that is stopped, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from harness import RUN_SECONDS, has_ended, wait_until

from nono_trio.posix import bounded_command
from nono_trio.posix.bounded_command import BoundedCommand, CommandFailed


def test_a_process_that_can_not_be_killed_is_not_waited_for(monkeypatch):
    """As one that the kernel holds for a file system that does not answer."""
    held = []

    class Held(subprocess.Popen):
        def wait(self, timeout=None):
            held.append(self)
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", Held)
    command = BoundedCommand(["sleep", "600"], {"PATH": "/usr/bin:/bin"}, most=10)
    with pytest.raises(CommandFailed, match="did not end within"):
        command.ask(b"", 0.2)
    for one in held:
        real.wait(one, RUN_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell of no end without reaping")
def test_a_process_is_reaped_while_no_stop_can_look_at_it(monkeypatch):
    """Else `stop` could kill another process, which has its number by then."""
    killed = []

    class Watched(subprocess.Popen):
        def poll(self):
            return self.stopped(super().poll())

        def wait(self, timeout=None):
            return self.stopped(super().wait(timeout))

        def stopped(self, code):
            stopping = threading.Thread(target=command.stop, args=(0,))
            if code is not None:
                stopping.start()
                stopping.join()
            return code

    monkeypatch.setattr(subprocess, "Popen", Watched)
    monkeypatch.setattr(bounded_command, "kill_family", lambda *one: killed.append(one))
    command = BoundedCommand(["true"], {"PATH": "/usr/bin:/bin"}, most=10)
    with pytest.raises(CommandFailed, match="the session has ended"):
        command.ask(b"", RUN_SECONDS)
    assert killed == []


def test_a_command_that_prints_nothing_gets_all_of_its_input(tmp_path):
    """It closes its stdout first; a pipe takes some of the input at a time."""
    kept, data = tmp_path / "kept", b"x" * 300_000
    line = f"exec >&-; cat >{kept}"
    command = BoundedCommand(["sh", "-c", line], {"PATH": "/usr/bin:/bin"}, most=10)
    assert command.ask(data, RUN_SECONDS) == (0, b"", b"")
    assert kept.read_bytes() == data


def test_a_question_ends_when_it_is_stopped(tmp_path):
    """With its group; a later question is not asked."""
    started = tmp_path / "started"
    os.mkfifo(started)
    line = f"sleep 600 & echo $! >{started}; wait"
    command = BoundedCommand(["sh", "-c", line], {"PATH": "/usr/bin:/bin"}, most=10)
    failures = []

    def ask():
        with pytest.raises(CommandFailed) as failed:
            command.ask(b"data", RUN_SECONDS)
        failures.append(str(failed.value))

    asking = threading.Thread(target=ask)
    asking.start()
    child = int(started.read_text())
    command.stop()
    asking.join(RUN_SECONDS)
    assert failures == ["was not asked to its end: the session has ended"]
    wait_until(lambda: has_ended(child), "the end of what it started")
    with pytest.raises(CommandFailed, match="the session has ended"):
        command.ask(b"", RUN_SECONDS)


def test_input_that_nobody_reads_and_a_pipe_that_stays_open_are_not_waited_for():
    words = ["sh", "-c", "exec 0<&-; sleep 600 & echo $!; exit 3"]
    command = BoundedCommand(words, {"PATH": "/usr/bin:/bin"}, most=10)
    answer = command.ask(b"x" * 1_000_000, RUN_SECONDS)
    assert (answer.code, answer.errors) == (3, b"")
    os.kill(int(answer.output), signal.SIGKILL)  # what it left behind stays
    assert BoundedCommand(["cat"], {}, most=70_000, program="/bin/cat").ask(
        b"y" * 65536, RUN_SECONDS
    ) == (0, b"y" * 65536, b"")
