"""Signals to the supervisor: passed on to the command, outlived, or taken for the end.

No signal that a process can handle ends a session without a seal, to whichever of our processes it
is sent: a group, as a shell's job or a service has, gets it whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from harness import (
    NONO_TRIO,
    PYTHON_GRANTS,
    RUN_SECONDS,
    landlock_isolation,
    processes_with,
    sleep_marker,
    wait_until,
)

if TYPE_CHECKING:
    from harness import Sessions, sleep_marker

ISOLATIONS = [
    "namespace",
    pytest.param("landlock", marks=landlock_isolation),
    "none",
]
PASSED_ON = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH, signal.SIGRTMIN + 3]
OUTLIVED = [
    signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR,
    signal.SIGSTKFLT, signal.SIGURG, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCONT,
]  # fmt: skip
TELLS = """
import signal, sys
told = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, told)
print("up", flush=True)
while True:
    number = signal.sigwait(told)
    print(int(number), flush=True)
    if number in (signal.SIGTERM, signal.SIGABRT, signal.SIGQUIT):
        sys.exit(9)
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_commands_signals_reach_it_and_the_rest_is_outlived(
    sessions: Sessions, isolation: str
) -> None:
    with sessions.started(
        "run", "-s", "--isolation", isolation, *PYTHON_GRANTS, "--", sys.executable, "-c", TELLS
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        for number in PASSED_ON:
            for outlived in OUTLIVED:
                run.send_signal(outlived)
            run.send_signal(number)
            assert run.stdout.readline() == f"{int(number)}\n"
        run.terminate()
        out, _ = run.communicate(timeout=RUN_SECONDS)
    assert out.startswith(f"{int(signal.SIGTERM)}\n")
    assert run.returncode == 9
    assert sessions.verdict()[1]["verdict"] == "verified"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_signal_to_each_of_our_processes_ends_none(sessions: Sessions, isolation: str) -> None:
    """A job's group, or what a service's manager does: supervisor, launcher and init get it."""
    with sessions.started(
        "run", "-s", "--isolation", isolation, *PYTHON_GRANTS, "--", sys.executable, "-c", TELLS,
        process_group=0,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        for number in (*PASSED_ON[:3], *OUTLIVED):
            os.killpg(run.pid, number)
        heard = {int(run.stdout.readline()) for _ in PASSED_ON[:3]}
        os.killpg(run.pid, signal.SIGTERM)
        run.communicate(timeout=RUN_SECONDS)
    assert heard == {int(number) for number in PASSED_ON[:3]}
    assert run.returncode == 9
    assert sessions.verdict()[1]["verdict"] == "verified"


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGABRT])
def test_signals_that_dump_memory_ask_for_the_end(
    sessions: Sessions, number: signal.Signals
) -> None:
    with sessions.started(
        "run", "-s", *PYTHON_GRANTS, "--", sys.executable, "-c", TELLS
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.send_signal(number)
        out, _ = run.communicate(timeout=RUN_SECONDS)
    assert (out, run.returncode) == (f"{int(number)}\n", 9)
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_a_stopped_command_is_not_continued_by_a_signal_of_its_own(sessions: Sessions) -> None:
    marker = sleep_marker()
    script = f"trap 'echo used' USR1; echo up; kill -STOP $$; echo on; sleep {marker} & wait"
    with sessions.started("run", "-s", "--isolation", "none", "--", "sh", "-c", script) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        (shell,) = processes_with(marker, "sh\0")
        wait_until(lambda: _state(shell) == "T", "stopped")
        run.send_signal(signal.SIGUSR1)
        wait_until(lambda: _is_pending(shell, signal.SIGUSR1), "passed on")
        assert _state(shell) == "T"
        run.terminate()
        assert run.wait(RUN_SECONDS) == 143
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_what_the_caller_ignores_the_command_ignores(sessions: Sessions) -> None:
    script = f"trap '' USR1; exec {NONO_TRIO} run -s -- grep SigIgn /proc/self/status"
    done = subprocess.run(
        ["sh", "-c", script], env=sessions.environment, cwd=sessions.home,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    standard = (1 << 31) - 1  # what is above is the C library's own, or real-time
    assert int(done.stdout.split()[1], 16) & standard == 1 << (signal.SIGUSR1 - 1)


def test_a_proxy_outlives_what_asks_for_nothing(sessions: Sessions) -> None:
    with sessions.proxy() as (process, _ready):
        for number in (*PASSED_ON, *OUTLIVED):
            process.send_signal(number)
        process.terminate()
        process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0
    assert sessions.verdict()[1]["verdict"] == "verified"


@pytest.mark.parametrize("command", ["run", "proxy"])
def test_a_signal_before_the_receiver_is_open_is_no_crash(sessions: Sessions, command: str) -> None:
    """From the moment that a session is on disk, it ends sealed, whatever comes."""
    rest = ["--", "sleep", "60"] if command == "run" else []
    with sessions.started(command, *rest) as process:
        wait_until(lambda: bool(sessions.directories), "a session on disk", RUN_SECONDS)
        process.terminate()
        process.communicate(timeout=RUN_SECONDS)
    assert sessions.verdict()[1]["verdict"] == "verified"


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


def _is_pending(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        masks = [line.split()[1] for line in file if line.startswith("ShdPnd")]
    return bool(int(masks[0], 16) >> (number - 1) & 1)
