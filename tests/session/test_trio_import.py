"""The start of a command asks the system for no process, and its end waits for no interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import Sessions

BOUND = 60  # seconds: a start takes a quarter of one

IMPORTS = """
import sys
started = []
sys.addaudithook(lambda event, _: started.append(event) if event in PROCESSES else None)
from nono_trio.session.trio_import import import_trio
import_trio()
import ctypes.util, pathlib, trio
def name():
    return pathlib.Path("/proc/thread-self/comm").read_text().strip()
async def named():
    return await trio.to_thread.run_sync(name)
print(started, trio.run(named), ctypes.util.find_library.__module__, sep=";")
"""
PROCESSES = 'PROCESSES = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"}\n'


def _python(
    program: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: elsewhere no process is asked")
def test_trio_is_imported_without_a_process_and_still_names_its_threads() -> None:
    ended = _python(PROCESSES + IMPORTS)
    started, thread, owner = ended.stdout.split(";")
    assert (started, owner) == ("[]", "ctypes.util\n"), ended
    assert thread.startswith("name from")  # trio's own name for it


SPAWNS = """
import sys
from nono_trio.session import cage_launch
spawn = cage_launch.spawn
def told(*arguments):
    print("trio" in sys.modules, flush=True)
    return spawn(*arguments)
cage_launch.spawn = told
sys.argv = ["nono-trio", "run", "-s", "--", "true"]
from nono_trio.cli.main import main; main()
"""


def test_the_launcher_starts_before_trio_is_imported(sessions: Sessions) -> None:
    """So the two take no more time than the longer of them."""
    ended = _python(SPAWNS, environment=sessions.environment)
    assert (ended.stdout, ended.returncode) == ("False\n", 0), ended.stderr


def test_a_command_leaves_with_all_its_output_and_without_the_interpreters_end() -> None:
    program = (
        "import atexit, sys; atexit.register(print, 'the end of the interpreter')\n"
        "sys.argv = ['nono-trio', *sys.argv[1:]]\n"
        "from nono_trio.cli.main import main; main()"
    )
    helped = _python(program, "run", "--help")
    assert helped.returncode == 0
    assert helped.stdout.endswith("--fix\n")
    assert _python(program, "run").returncode == 2
