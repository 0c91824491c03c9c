"""Landlock and no isolation: the tree of a run is ended whole, in time, before the run is over.

In namespaces the kernel does it. A run that does not end fails by the harness' own bound.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from deadlines import run_past_begin
from harness import RUN_SECONDS, SYSTEM_PYTHON, Sessions, landlock_isolation, processes_with

# The launcher, while it ends what is left of a tree whose first process has ended.
ASKED_LATE = """
import os, signal
from nono_trio.sandbox.launcher.linux.keeper import END_NOW, wait_for_init
started, start = os.pipe()
os.close(start)
signal.pthread_sigmask(signal.SIG_BLOCK, [END_NOW])
init = os.fork()
if not init:
    os._exit(0)
wait_for_init(init, started, None)
signal.raise_signal(END_NOW)
print("goes on")
"""


def test_being_asked_to_end_once_more_ends_nothing_half_way() -> None:
    """The supervisor may ask when the first process has gone already."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED_LATE],
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("goes on\n", "")


@landlock_isolation
@pytest.mark.parametrize(
    ("tree", "count"), [("sleepers", 300), ("chains", 15), ("nested", 700), ("bomb", 2)]
)
def test_nothing_of_the_tree_outlives_the_run(sessions: Sessions, tree: str, count: int) -> None:
    marker = f"marker-{tree}-{os.getpid()}-"
    limit = ["--max-processes", "1500"] if tree == "bomb" and os.geteuid() != 0 else []
    if tree == "bomb" and not limit:
        pytest.skip("root has no limit on processes without a cgroup: it would take the machine")
    done = sessions.python(
        ["--isolation", "landlock", *limit], "stall_tree.py", tree, str(count), marker
    )
    assert processes_with(marker) == []
    assert done.stdout == "planted\n", done.stderr
    assert done.returncode == 0
    assert sessions.verdict()[1]["verdict"] == "verified"


SLEEPERS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(400):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
print("planted", flush=True)
time.sleep(600)
"""


@landlock_isolation
def test_nothing_outlives_the_timeout_of_many_that_ignore_sigterm(sessions: Sessions) -> None:
    marker = f"marker-timeout-{os.getpid()}-"
    command = [SYSTEM_PYTHON, "-c", SLEEPERS, marker]
    options = ["--isolation", "landlock", "--grace", "0.1"]
    done = run_past_begin(
        sessions,
        lambda seconds: sessions.run(*options, "--timeout", seconds, "--", *command),
        "planted",
    )
    assert processes_with(marker) == []
    assert done.stdout == "planted\n", done.stderr
    assert done.returncode == 124
    assert "Traceback" not in done.stderr
