"""The runs that tests fork from one process are like those that Python was started for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from checkout import SUPPORT
from forked_runs import MODULES
from harness import (
    NONO_TRIO,
    RUN_SECONDS,
    has_ended,
    landlock_isolation,
    processes_with,
    sleep_marker,
    wait_until,
)
from run_server import FORKED

pytestmark = pytest.mark.skipif(not FORKED, reason="no run forks here: Python has no pidfd_open")

AT_GO = """
import sys
from nono_trio import startup
startup.begin()
startup.collect_rarely()
from nono_trio.cli.main import exit_code
from nono_trio.session import preload
def told(_refusal):
    with open(sys.argv[1], "w") as file:
        file.write(" ".join(sys.modules))
preload.freeze_imports = told
sys.exit(exit_code(sys.argv[2:]))
"""
FORKED = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import forked_runs, random
forked_runs.import_modules()
print(*sys.modules)
"""

KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(SUPPORT)!r})
import run_server
server = run_server.start(sys.argv[1], os.environ)
run = server.start(sys.argv[2:], os.environ, os.environ["HOME"])
print(run.stdout.readline(), run.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=landlock_isolation)]
)
def test_all_that_they_begin_with_is_imported_by_each_run_before_its_command(
    sessions, tmp_path, isolation
):
    """Or an import after the start of the command would not be refused in them."""
    told = tmp_path / "told"
    words = ["run", "-s", "--isolation", isolation, "--", "true"]
    outputs = [
        subprocess.run(
            [sys.executable, "-P", "-c", *program], env=sessions.environment, cwd=sessions.home,
            capture_output=True, text=True, check=True, timeout=RUN_SECONDS,
        ).stdout
        for program in ([AT_GO, told, *words], [FORKED])
    ]  # fmt: skip
    begun, imported = outputs[1].split(), told.read_text().split()
    assert {*MODULES} <= {*begun}
    assert {*begun} - {*imported} == {"forked_runs"}


def test_their_commands_and_policies_are_those_of_any_run(sessions):
    show = "pwd; umask; env | cut -d= -f1 | sort; ls /proc/self/fd; cat; echo told >&2; exit 3"
    seen = []
    for settings in ({}, {"stdin": subprocess.DEVNULL}):
        done = sessions.run("--", "sh", "-c", show, **settings)
        policy = json.loads((sessions.only / "policy.json").read_bytes())
        seen.append((done, policy["files"], policy["enforcement"], policy["working_directory"]))
        shutil.rmtree(sessions.state)
    assert done.returncode == 3
    assert done.stderr.endswith("told\n")
    assert vars(seen[0][0]) == vars(done)
    assert seen[0][1:] == seen[1][1:]


def test_nothing_of_them_outlives_tests_that_are_killed(sessions):
    marker = sleep_marker()
    shell = ["--", "sh", "-c", f"echo ready; exec sleep {marker}"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, NONO_TRIO, "run", "-s", *shell], env=sessions.environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=RUN_SECONDS,
    )  # fmt: skip
    ready, pid = killed.stdout.split()
    assert ready == "ready"
    wait_until(lambda: has_ended(int(pid)), "the end of the run")
    wait_until(lambda: processes_with(marker) == [], "the end of its command")
