"""nono-trio's proxy against upstream's Rust proxy, interleaved; intercepted requests against
mitmproxy (bench_intercept.py); then start-up times.

Each round runs every row against both proxies, one after the other. The order changes from round to
round, so that a machine that slows down slows both. docs/benchmarks.md describes each row.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench_intercept import measure_intercepted
from bench_load import (
    NONO_TRIO,
    SCRIPTS,
    BenchmarkFailed,
    Proxy,
    Sample,
    build_tools,
    environment,
    measure,
    origin,
    our_proxy,
    rust_proxy,
    separate_cpus,
)
from bench_others import measure_others
from bench_page import write_page
from bench_report import Row, as_json, as_table
from processes import all_end_within, handles_of, tree

if TYPE_CHECKING:
    from collections.abc import Sequence

MB = 1_000_000
PER_REQUESTS, PER_BYTES = 1000, 1000 * MB
PARTS = ("load", "others", "intercepted", "start")
PAGE = SCRIPTS.parent / "docs" / "benchmarks.md"
ROUNDS, QUICK_ROUNDS = 7, 1
STARTS, QUICK_STARTS = 21, 1
WARM_UP, QUICK_WARM_UP = 200, 20  # requests before anything counts: imports, caches, the allocator
SMALL_SESSION = 100  # records in the log whose verification is timed
COMMAND_SECONDS = 30.0

REQUESTS = "CPU s per 1,000 requests"
BYTES = "CPU s per GB"
MEMORY = "peak memory, MB"
START = "wall time, ms"
INTERCEPT = ("--allow-domain", "example.com", "--intercept", "example.com")
# A hand-made cage. Our start-up may cost as much as this cage and two and a half `import trio`.
BWRAP = (
    "bwrap",
    "--unshare-all",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "true",
)


@dataclass(frozen=True)
class Load:
    """One row's load. `count` and `quick` are requests, or transfers of `size` (`quick_size`)."""

    name: str
    mode: str
    clients: int
    count: int
    quick: int
    aim: float | None = None
    size: int = 0
    quick_size: int = 0
    peer_can: bool = True

    @property
    def is_bulk(self) -> bool:
        """Return true if the load counts bytes, not requests."""
        return self.size > 0


# Each takes about a second of CPU on a slow machine, except with --quick.
LOADS = (
    Load("CONNECT, 1 client", "connect", 1, 2000, 50),
    Load("CONNECT, 32 clients", "connect", 32, 6000, 96, aim=2.0),
    Load("CONNECT, 256 clients", "connect", 256, 6000, 256),
    Load("deny, 32 clients", "deny", 32, 8000, 96, aim=1.5),
    Load("forward, 32 clients, one each", "forward", 32, 4000, 96, peer_can=False),
    Load("forward, 32 clients, keep-alive", "forwardka", 32, 8000, 96, peer_can=False),
    Load("bulk, 1 tunnel", "bulk", 1, 4, 1, aim=1.0, size=500 * MB, quick_size=5 * MB),
    Load("bulk, 8 tunnels", "bulk", 8, 8, 8, aim=1.0, size=250 * MB, quick_size=1 * MB),
    Load("upload, 1 tunnel", "up", 1, 4, 1, size=500 * MB, quick_size=5 * MB),
)


class Bench:
    """Both proxies, one origin, and the rows, which get one figure in each round."""

    def __init__(self, tools: Path, ours: Proxy, peer: Proxy, origin_port: int, *, quick: bool):
        self._tools = tools
        self._ours = ours
        self._peer = peer
        self._origin_port = origin_port
        self._quick = quick
        self.rows = [
            Row(load.name, BYTES if load.is_bulk else REQUESTS, load.aim, peer=_figures(load))
            for load in LOADS
        ]
        self.memory = Row("at its peak, over all loads", MEMORY, ours=[0.0], peer=[0.0])

    def warm_up(self) -> None:
        """Let both proxies do everything once, so that no first time is measured."""
        for proxy in (self._ours, self._peer):
            for mode in ("connect", "deny"):
                self._run(Load("", mode, 8, WARM_UP, QUICK_WARM_UP), proxy)

    def run_round(self, number: int) -> None:
        """Run every load once against each proxy."""
        for load, row in zip(LOADS, self.rows, strict=True):
            samples: dict[int, Sample] = {}
            order = (self._ours, self._peer) if number % 2 == 0 else (self._peer, self._ours)
            for proxy in order:
                if proxy is self._ours or load.peer_can:
                    samples[proxy.pid] = self._run(load, proxy)
            self._enter(load, row, samples[self._ours.pid], samples.get(self._peer.pid))

    def _run(self, load: Load, proxy: Proxy) -> Sample:
        return measure(
            self._tools,
            proxy,
            self._origin_port,
            mode=load.mode,
            clients=load.clients,
            count=load.quick if self._quick else load.count,
            size=load.quick_size if self._quick else load.size,
        )

    def _enter(self, load: Load, row: Row, ours: Sample, peer: Sample | None) -> None:
        row.ours.append(_cost(load, ours))
        self._remember_peak(self.memory.ours, ours)
        if peer is not None and row.peer is not None and self.memory.peer is not None:
            row.peer.append(_cost(load, peer))
            row.speeds.append((ours.amount / ours.seconds) / (peer.amount / peer.seconds))
            self._remember_peak(self.memory.peer, peer)

    @staticmethod
    def _remember_peak(figures: list[float], sample: Sample) -> None:
        figures[0] = max(figures[0], sample.peak_megabytes)


def _figures(load: Load) -> list[float] | None:
    return [] if load.peer_can else None


def _cost(load: Load, sample: Sample) -> float:
    return sample.cpu_seconds / sample.amount * (PER_BYTES if load.is_bulk else PER_REQUESTS)


def measure_load(tools: Path, state: Path, rounds: int, *, quick: bool) -> list[Row]:
    """Return the rows of both proxies under load, and of their memory."""
    with ExitStack() as stack:
        ours = stack.enter_context(our_proxy(state))
        peer = stack.enter_context(rust_proxy())
        stack.enter_context(separate_cpus([ours, peer]))
        port = stack.enter_context(origin(tools))
        bench = Bench(tools, ours, peer, port, quick=quick)
        bench.warm_up()
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            bench.run_round(number)
    return [*bench.rows, bench.memory]


def measure_start(tools: Path, state: Path, starts: int) -> list[Row]:
    """Return rows with the wall times of short commands."""
    run = Row("run -- true, by import trio", START, aim=2.5)
    weak = Row("landlock run -- true, the same", START, aim=2.5)
    has_bwrap = shutil.which(BWRAP[0]) is not None
    bwrap = Row("run -- true, by bwrap + 2.5 trio", START, aim=1.0 if has_bwrap else None)
    looking = Row("with --intercept, by run -- true", START)
    verify = Row(f"audit verify, {SMALL_SESSION} requests", START, aim=150.0, peer=None)
    gone = Row("cage gone after kill -9", START, aim=1000.0, peer=None)
    _make_session(tools, state)
    tell(f"start-up, {starts} times")
    for number in range(starts + 1):
        ours = _wall_ms([NONO_TRIO, "run", "--", "true"], state)
        trio = _wall_ms([sys.executable, "-c", "import trio"], state)
        fallback = _wall_ms([NONO_TRIO, "run", "--isolation", "landlock", "--", "true"], state)
        intercepting = _wall_ms([NONO_TRIO, "run", *INTERCEPT, "--", "true"], state)
        verifying = _wall_ms([NONO_TRIO, "audit", "verify", "small"], state)
        cage = _wall_ms(BWRAP, state) if has_bwrap else None
        if not number:  # the first turn fills the caches
            continue
        run.add(ours, trio)
        weak.add(fallback, trio)
        looking.add(intercepting, ours)
        bwrap.add(ours, None if cage is None else cage + 2.5 * trio)
        verify.add(verifying, None)
        gone.add(_gone_ms(state), None)
    return [run, weak, bwrap, looking, verify, gone]


def _make_session(tools: Path, state: Path) -> None:
    """Make a sealed session with SMALL_SESSION decisions, named `small`."""
    with origin(tools) as port, our_proxy(state, name="small") as proxy:
        measure(tools, proxy, port, mode="connect", clients=1, count=SMALL_SESSION, size=0)


def _wall_ms(command: Sequence[str | Path], state: Path) -> float:
    began = time.perf_counter()
    finished = subprocess.run(
        command, env=environment(state), cwd=state, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS,
    )  # fmt: skip
    taken = time.perf_counter() - began
    if finished.returncode:
        words = " ".join(map(str, command))
        raise BenchmarkFailed(f"{words}: exit code {finished.returncode}: {finished.stderr[-400:]}")
    return taken * 1000


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
                if not cage or not all_end_within(cage, COMMAND_SECONDS):
                    raise BenchmarkFailed("a process outlived its supervisor")
                return (time.perf_counter() - began) * 1000
        finally:
            supervisor.kill()


def _measure(
    part: str, tools: Path, state: Path, rounds: int, starts: int, *, quick: bool
) -> list[Row]:
    if part == "load":
        return measure_load(tools, state, rounds, quick=quick)
    if part == "others":
        return measure_others(tools, state, rounds, tell, quick=quick)
    if part == "intercepted":
        return measure_intercepted(tools, state, rounds, tell, quick=quick)
    return measure_start(tools, state, starts)


def tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--only", choices=PARTS, help="one part of the rows")
    parser.add_argument(
        "--write-docs", action="store_true", help="write table and plot into docs/benchmarks.md"
    )
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    starts = QUICK_STARTS if given.quick else STARTS
    with tempfile.TemporaryDirectory(prefix="nono-trio-bench-") as root:
        tools, state = Path(root), Path(root) / "state"
        state.mkdir()
        try:
            build_tools(tools)
            rows = []
            for part in PARTS if given.only is None else (given.only,):
                measured = _measure(part, tools, state, rounds, starts, quick=given.quick)
                rows += measured
                if given.write_docs and part in ("others", "intercepted"):
                    write_page(PAGE, part, measured)
        except (BenchmarkFailed, subprocess.TimeoutExpired) as error:
            tell(f"FAILED: {error}")
            return 1
    print(as_json(rows, quick=given.quick) if given.json else as_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
