"""Short commands: what a start costs, by CPU and by wall time, against starts of other programs.

CPU is user and system time of the command and of every process below it: what it does not wait for
is waited for here. A peer that is not installed is skipped with a word.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench_load import NONO_TRIO, BenchmarkFailed, environment, measure, origin, our_proxy
from bench_others import SANDBOX_RUNTIME
from bench_report import Row
from processes import all_end_within, handles_of, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CPU: Final = "start, CPU ms"
WALL: Final = "start, wall ms"
_SMALL_SESSION: Final = 100  # records in the log whose verification is timed
_COMMAND_SECONDS: Final = 30.0
_LOOK_PAUSE: Final = 0.005
_SUBREAPER: Final = 36  # prctl(2): orphans below us become our children, as if we were init
_INTERCEPT: Final = ("--allow-domain", "example.com", "--intercept", "example.com")
# A hand-made cage. Our start-up may cost as much as this cage and two and a half `import trio`.
_BWRAP: Final = (
    "bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true",
)  # fmt: skip
_RUN, _TRIO, _PYTHON, _CAGE, _SRT = "run", "trio", "python", "bwrap", "sandbox-runtime"
_LANDLOCK: Final = "landlock"


@dataclass(frozen=True)
class _Taken:
    """The times of one command, in milliseconds."""

    cpu: float
    wall: float


@dataclass(frozen=True, eq=False)
class _Compared:
    """Two commands: `ours` by the sum of `peers`, each with its weight; aims of both figures."""

    name: str
    ours: str
    peers: dict[str, float]
    cpu_aim: float | None = None
    wall_aim: float | None = None


_ROWS: Final = (
    _Compared("run -- true, by import trio", _RUN, {_TRIO: 1}, 2.1, 2.5),
    _Compared("landlock run -- true, by import trio", _LANDLOCK, {_TRIO: 1}, None, 2.5),
    _Compared("run -- true, by bwrap + 2.5 trio", _RUN, {_CAGE: 1, _TRIO: 2.5}, None, 1.0),
    _Compared("run -- true, by bwrap", _RUN, {_CAGE: 1}),
    _Compared("run -- true, by sandbox-runtime", _RUN, {_SRT: 1}),
    _Compared("with --intercept, by run -- true", "intercept", {_RUN: 1}),
    _Compared("--help, by bare python", "help", {_PYTHON: 1}, 5.0),
    _Compared("audit list, by bare python", "list", {_PYTHON: 1}, 6.0),
)


def measure_start(tools: Path, state: Path, starts: int, tell: Callable[[str], None]) -> list[Row]:
    """Return rows of short commands."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    commands = _commands(state, tell)
    known = [one for one in _ROWS if commands.keys() >= {one.ours, *one.peers}]
    cpu = {one: Row(one.name, CPU, one.cpu_aim) for one in known}
    wall = {one: Row(one.name, WALL, one.wall_aim) for one in known}
    verify = Row(f"audit verify, {_SMALL_SESSION} requests", WALL, aim=150.0, peer=None)
    gone = Row("cage gone after kill -9", WALL, aim=1000.0, peer=None)
    _make_session(tools, state)
    tell(f"start-up, {starts} times")
    warm_ups = 1 if starts > 1 else 0  # it fills the caches
    for number in range(warm_ups + starts):
        order = [*commands] if number % 2 else [*commands][::-1]
        taken = {name: _take(commands[name], state) for name in order}
        if number < warm_ups:
            continue
        for one in known:
            ours, peers = taken[one.ours], one.peers.items()
            cpu[one].add(ours.cpu, sum(taken[name].cpu * times for name, times in peers))
            wall[one].add(ours.wall, sum(taken[name].wall * times for name, times in peers))
        verify.add(_take([NONO_TRIO, "audit", "verify", "small"], state).wall, None)
        gone.add(_gone_ms(state), None)
    return [*cpu.values(), *wall.values(), verify, gone]


def _commands(state: Path, tell: Callable[[str], None]) -> dict[str, Sequence[str | Path]]:
    commands: dict[str, Sequence[str | Path]] = {
        _RUN: [NONO_TRIO, "run", "--", "true"],
        _TRIO: [sys.executable, "-c", "import trio"],
        "intercept": [NONO_TRIO, "run", *_INTERCEPT, "--", "true"],
        "help": [NONO_TRIO, "--help"],
        "list": [NONO_TRIO, "audit", "list"],
        _PYTHON: [sys.executable, "-c", ""],
    }
    landlock = [NONO_TRIO, "run", "--isolation", "landlock", "--", "true"]
    if _works(_LANDLOCK, landlock, state, tell):
        commands[_LANDLOCK] = landlock
    if shutil.which(_BWRAP[0]):
        commands[_CAGE] = _BWRAP
    else:
        tell("bwrap: skipped, there is no bwrap in PATH")
    runtime, node = os.environ.get(SANDBOX_RUNTIME), shutil.which("node")
    if runtime is None or node is None:
        tell(f"sandbox-runtime: skipped, there is no node, or no directory in {SANDBOX_RUNTIME}")
        return commands
    srt = [node, f"{runtime}/dist/cli.js", "true"]
    return commands | {_SRT: srt} if _works(_SRT, srt, state, tell) else commands


def _works(
    name: str, command: Sequence[str | Path], state: Path, tell: Callable[[str], None]
) -> bool:
    """Return whether the command ends well on this machine; say why if it does not."""
    try:
        _take(command, state)
    except BenchmarkFailed as error:
        tell(f"{name}: skipped, its command fails: {error}")
        return False
    return True


def _make_session(tools: Path, state: Path) -> None:
    """Make a sealed session with _SMALL_SESSION decisions, named `small`."""
    with origin(tools) as port, our_proxy(state, name="small") as proxy:
        measure(tools, proxy, port, mode="connect", clients=1, count=_SMALL_SESSION, size=0)


def _take(command: Sequence[str | Path], state: Path) -> _Taken:
    kept = environment(state) | {"HOME": str(state)}
    with (state / "output").open("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=kept, cwd=state, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        cpu = used.ru_utime + used.ru_stime + _cpu_of_orphans()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        words = " ".join(map(str, command))
        raise BenchmarkFailed(f"{words}: exit code {process.returncode}: {said[-400:]}")
    return _Taken(cpu * 1000, wall * 1000)


def _cpu_of_orphans() -> float:
    """Wait for the processes that a command left to us: bwrap does not wait for its cage."""
    total, deadline = 0.0, time.monotonic() + _COMMAND_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            total += used.ru_utime + used.ru_stime
        else:
            time.sleep(_LOOK_PAUSE)
    return total


def _gone_ms(state: Path) -> float:
    """From `kill -9` of a supervisor to the end of every process of its cage."""
    command = [NONO_TRIO, "run", "-s", "--", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(
        command, env=environment(state), cwd=state, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as supervisor:  # fmt: skip
        try:
            if supervisor.stdout is None or supervisor.stdout.readline() != "ready\n":
                raise BenchmarkFailed("the command of a run did not start")
            with handles_of(tree(supervisor.pid)[1:]) as cage:
                began = time.perf_counter()
                supervisor.kill()
                if not cage or not all_end_within(cage, _COMMAND_SECONDS):
                    raise BenchmarkFailed("a process outlived its supervisor")
                return (time.perf_counter() - began) * 1000
        finally:
            supervisor.kill()
            supervisor.wait()
            _cpu_of_orphans()  # of the cage: nothing that is timed
