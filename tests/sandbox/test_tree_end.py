"""Landlock and no isolation: the tree of a run is ended whole, in time, before the run is over.

In namespaces the kernel does it. A run that does not end fails by the harness' own bound.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from deadlines import run_past_begin
from harness import (
    LANDLOCK_SCOPES,
    RUN_SECONDS,
    SYSTEM_PYTHON,
    Sessions,
    landlock_isolation,
    processes_with,
)

from nono_trio.sandbox.cage import Cage
from nono_trio.sandbox.spawn import Launched

if TYPE_CHECKING:
    from collections.abc import Iterator

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


RUNS_FIRST = """
import os, time
from nono_trio.sandbox.launcher import process_tree
kill = os.kill
def kill_first(pid, number):
    print(os.sched_getscheduler(0) == os.SCHED_FIFO)
    kill(pid, number)
os.kill = kill_first
if not os.fork():
    time.sleep(600)
process_tree.end_descendants()
print(os.sched_getscheduler(0) == os.SCHED_OTHER)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run before others")
def test_the_end_of_a_tree_runs_before_the_tree() -> None:
    """Processes that continue each other took the processors: the end lost its race with them."""
    done = subprocess.run(
        [sys.executable, "-c", RUNS_FIRST],
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    first, *others = done.stdout.split()
    assert done.stderr == ""
    if first == "False" and not may_run_first():
        pytest.skip("this container may not run a process before others (CAP_SYS_NICE)")
    assert {first, *others} == {"True"}


def may_run_first() -> bool:
    """Tell whether a process of this user may be scheduled before all others."""
    asks = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", asks], check=False).returncode == 0


@landlock_isolation
@pytest.mark.parametrize(
    ("isolation", "tree", "count"),
    [
        ("landlock", "sleepers", 300), ("none", "chains", 15), ("none", "nested", 700),
        ("landlock", "bomb", 2), ("landlock", "continued", 2), ("none", "continued", 2),
    ],
)  # fmt: skip
def test_nothing_of_the_tree_outlives_the_run(
    sessions: Sessions, isolation: str, tree: str, count: int
) -> None:
    """With landlock one signal ends it where the kernel limits signals, without it walks do."""
    marker = f"marker-{tree}-{os.getpid()}-"
    grows = tree in ("bomb", "continued")
    limit = ["--max-processes", "1500"] if grows and os.geteuid() != 0 else []
    if tree == "continued" and limit:  # each signal continues all of them
        limit = ["--max-processes", "500"]
    if grows and not limit:
        pytest.skip("root has no limit on processes without a cgroup: it would take the machine")
    done = sessions.python(
        ["--isolation", isolation, *limit], "stall_tree.py", tree, str(count), marker
    )
    assert processes_with(marker) == []
    assert done.stdout == "planted\n", done.stderr
    assert done.returncode == 0
    assert sessions.verdict()[1]["verdict"] == "verified"


SCOPED = """
import os, sys, time
from nono_trio.sandbox.launcher.linux.signal_scope import enter_signal_scope
def may_signal(pid):
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    return True
outer = os.getpid()
outside = os.fork()
if not outside:
    time.sleep(600)
    os._exit(0)
keeper = os.fork()
if not keeper:
    print(enter_signal_scope(), may_signal(outer), may_signal(outside), flush=True)
    init = os.fork()
    if not init:
        keeper = os.getppid()
        print(enter_signal_scope(), may_signal(keeper), may_signal(outside), flush=True)
        inside = os.fork()
        if not inside:
            time.sleep(600)
            os._exit(0)
        print(may_signal(inside))
        os.kill(inside, 9)
        sys.stdout.flush()
        os._exit(0)
    os._exit(os.waitpid(init, 0)[1])
os.waitpid(keeper, 0)
os.kill(outside, 9)
"""


@pytest.mark.skipif(not LANDLOCK_SCOPES, reason="this kernel's Landlock does not limit signals")
def test_a_signal_scope_reaches_what_was_started_in_it_and_nothing_else() -> None:
    """Else the kill(-1) that ends a tree would end everything of the user."""
    done = subprocess.run(
        [sys.executable, "-c", SCOPED],
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True False False", "True False False", "True"]


REFUSED = """
import os
from nono_trio.sandbox.launcher.linux import signal_scope
signal_scope.syscalls.scope_signals = lambda: None  # says that it has, and has not
if not os.fork():
    print(signal_scope.enter_signal_scope())
    os._exit(0)
os.wait()
"""


def test_a_scope_that_the_kernel_did_not_set_is_not_relied_on() -> None:
    done = subprocess.run(
        [sys.executable, "-uc", REFUSED],
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False\n", "")


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


ENDS_LATER = """
import socket, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
while control.recv(4096):
    pass
time.sleep(0.2)  # it ends the tree
"""


@pytest.fixture
def keeper_killed() -> Iterator[Launched]:
    """A launched cage whose keeper is killed; its first process ends a while after it is asked."""
    control, theirs = socket.socketpair()
    with theirs:
        first = subprocess.Popen(
            [sys.executable, "-c", ENDS_LATER, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    keeper = subprocess.Popen(["sleep", "600"])
    launched = Launched(keeper.pid, control, isolated=False, init=os.pidfd_open(first.pid))
    keeper.kill()
    yield launched
    launched.abandon()
    keeper.returncode = 0  # the cage has reaped it
    first.kill()
    first.wait()


async def test_the_end_waits_for_the_first_process_also_if_its_keeper_was_killed(
    keeper_killed: Launched,
) -> None:
    """The session was said to be over, and sealed, while that still ended the tree."""
    handle = keeper_killed.init
    async with Cage(keeper_killed):
        assert not select.select([handle], [], [], 0)[0]
    assert select.select([handle], [], [], 0)[0]
    assert keeper_killed.reaped
