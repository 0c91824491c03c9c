"""Asking a command: what happens to a command that can't be killed."""

from __future__ import annotations

import subprocess

import pytest
from harness import RUN_SECONDS

from nono_trio.posix.bounded_command import CommandFailed, ask_command


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
    with pytest.raises(CommandFailed, match="did not answer"):
        ask_command(["sleep", "600"], b"", {"PATH": "/usr/bin:/bin"}, seconds=0.2, most=10)
    for one in held:
        real.wait(one, RUN_SECONDS)
