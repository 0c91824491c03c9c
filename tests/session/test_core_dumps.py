"""No core dump of a supervisor, whose memory has what is kept from the child; the command's own
limit is the caller's."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import (
    NONO_TRIO,
    PYTHON_GRANTS,
    RUN_SECONDS,
    Sessions,
    as_user,
    guarded,
    landlock_isolation,
)

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
USERS = ["root", "user"] if os.geteuid() == 0 else ["user"]


def dumps_allowed() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV])
def test_a_supervisor_that_crashes_leaves_no_dump(
    sessions: Sessions, number: signal.Signals
) -> None:
    """By the kernel's own word, wherever a dump would have gone."""
    process = subprocess.Popen(
        [NONO_TRIO, "run", "-s", "--", "sh", "-c", "echo ready; exec sleep 60"],
        env=sessions.environment, cwd=sessions.home, preexec_fn=dumps_allowed,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, number)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
    assert list(sessions.home.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGABRT])
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_signal_that_asks_for_a_dump_ends_a_session_in_good_order(
    sessions: Sessions, isolation: str, number: signal.Signals
) -> None:
    with sessions.started(
        "run", "-s", "--isolation", isolation, "--", "sh", "-c", "echo ready; exec sleep 60",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(RUN_SECONDS) == 128 + number
    assert sessions.verdict()[1]["verdict"] == "verified"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_command_has_the_callers_limit(sessions: Sessions, isolation: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    wanted = 4096 * 512 if hard == resource.RLIM_INFINITY else min(4096 * 512, hard)
    done = sessions.run(
        "-s", "--isolation", isolation, "--", "sh", "-c", "ulimit -c; ulimit -H -c",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (wanted, hard)),
    )  # fmt: skip
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard // 512)
    assert done.stdout == f"{wanted // 512}\n{shown}\n", done.stderr


# Connects to a unix socket of its own: in landlock isolation the supervisor does it, by /proc.
CONNECTING = """
import os, socket
with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
    server.bind("a.sock")
    server.listen(1)
    print(client.connect_ex("a.sock"))
"""

# In a home of its own, by whichever user this is.
RUNNING = """
import json, os, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as home:
    os.mkdir(home + "/project")
    environment = dict(os.environ, HOME=home, NONO_TRIO_STATE_DIR=home + "/state")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nono_trio", *json.loads(sys.argv[1])],
        env=environment, cwd=home + "/project", capture_output=True, text=True,
    )
    print(done.stdout, done.stderr, sep="", end="")
"""


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("isolation", ["namespace", pytest.param("landlock", marks=guarded)])
def test_a_cage_works_all_the_same(isolation: str, user: str) -> None:
    """Of what the kernel shows of such a process in /proc, an ordinary user sees less."""
    prefix, variables = as_user(user, Path(__file__))
    words = ["run", "-s", "--isolation", isolation, "--allow-cwd"]
    words += PYTHON_GRANTS if prefix[-1] == sys.executable else []
    words += ["--", prefix[-1], "-c", CONNECTING]
    done = subprocess.run(
        [*prefix, "-B", "-c", RUNNING, json.dumps(words)],
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True, text=True, check=False, cwd="/", timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.stdout == "0\n", done.stdout + done.stderr
