"""Splits the CPU time of a request, or of a GB: by system call, by layer, by thread.

    .venv/bin/python scripts/bench_breakdown.py [--only LOAD]... [--write-docs]

Three tools look at one `nono-trio proxy` each, under the same loads as scripts/bench:

- `perf record` (cpu-clock) for the kernel's part by system call and for the part of other threads,
- `strace -c` for the number of system calls,
- `bench_src/sampled.py` for the main thread's own part by layer.

Printed are tables of shares. Needs perf, strace, a C compiler, and the right to use them (root).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench_load import (
    NONO_TRIO,
    SCRIPTS,
    BenchmarkFailed,
    Proxy,
    build_tools,
    measure,
    origin,
    our_proxy,
    separate_cpus,
)
from bench_loads import LOADS, MB, Load
from bench_page import replace_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = SCRIPTS.parent / "docs" / "performance.md"
PARTS: Final = {
    "CONNECT": "CONNECT, 32 clients",
    "deny": "deny, 32 clients",
    "plain": "forward, 32 clients, one each",
    "keep-alive": "forward, 32 clients, keep-alive",
    "bulk": "bulk, 8 tunnels",
    "upload": "upload, 8 tunnels",
}
KERNEL, OTHERS = "kernel", "other threads"
WARM_UP: Final = 500
SAMPLES_A_SECOND: Final = 1999
WRITTEN_WITHIN: Final = 10.0  # seconds
LEAST: Final = 0.01  # a smaller share is in "other"
# The layer of a module is the first that begins its path; docs/architecture.md has the walk.
LAYERS: Final = (
    ("trio/", "trio: scheduler, channels, scopes"),
    ("nono_trio/proxy/listeners/", "accept, tasks"),
    ("nono_trio/core/http/", "parse and rewrite heads"),
    ("nono_trio/proxy/first_bytes", "parse and rewrite heads"),
    ("nono_trio/proxy/http/rewrite", "parse and rewrite heads"),
    ("nono_trio/proxy/access/", "token, policy, decision"),
    ("nono_trio/core/policy/", "token, policy, decision"),
    ("nono_trio/core/net/", "token, policy, decision"),
    ("nono_trio/audit/", "record"),
    ("nono_trio/core/log/", "record"),
    ("nono_trio/proxy/upstream/", "addresses, dial"),
    ("nono_trio/proxy/transport/", "sockets, readiness, relay"),
    ("nono_trio/steps", "the dispatcher's steps"),
    ("nono_trio/task_turns", "the dispatcher's steps"),
    ("nono_trio/waker", "the dispatcher's steps"),
    ("nono_trio/", "a connection's order of acts, flows"),
)
# The innermost symbol's file, as perf names it.
PROGRAM_PARTS: Final = (
    ("libcrypto", "SHA-256 and other of OpenSSL"),
    ("_hashlib", "SHA-256 and other of OpenSSL"),
    ("msgspec", "msgspec"),
    ("_socket", "modules of sockets and epoll"),
    ("select.", "modules of sockets and epoll"),
    ("python", "the interpreter"),
)
_COLLECTING: Final = re.compile(
    r" (?:gc_\w+|visit_\w+|\w+_traverse|\w+unreachable|subtract_refs)\b"
)
_SYSTEM_CALL: Final = re.compile(r"\b__(?:x64|arm64)_sys_(\w+)")
_STRACE_LINE: Final = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$")


@dataclass
class Broken:
    """The findings about one load: shares of all CPU, and calls a unit (a request, or 1 MB)."""

    shares: dict[str, float]
    calls: dict[str, float]
    layers: dict[str, float]


class Breakdown:
    """The tools and the origin."""

    def __init__(self, tools: Path, state: Path, port: int) -> None:
        self._tools, self._state, self._port = tools, state, port

    def of(self, load: Load) -> Broken:
        """Break one load down, with a new proxy for each tool."""
        return Broken(self._perf(load), self._strace(load), self._sampled(load))

    def _run(self, load: Load, proxy: Proxy, count: int) -> None:
        size = load.size
        measure(
            self._tools, proxy, self._port,
            mode=load.mode, clients=load.clients, count=count, size=size,
        )  # fmt: skip

    @contextmanager
    def _proxy(
        self, load: Load, name: str, program: tuple[str | Path, ...] = (NONO_TRIO,)
    ) -> Iterator[Proxy]:
        session = f"{load.mode}-{name}"
        with (
            our_proxy(self._state, name=session, program=program) as proxy,
            separate_cpus([proxy]),
        ):
            self._run(load, proxy, load.clients if load.is_bulk else WARM_UP)
            yield proxy

    def _perf(self, load: Load) -> dict[str, float]:
        data = self._state / "perf.data"
        with self._proxy(load, "perf") as proxy:
            command = [
                "perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-g",
                "-p", str(proxy.pid), "-o", data,
            ]  # fmt: skip
            with _attached(command):
                self._run(load, proxy, load.count * 2)
        told = subprocess.run(
            ["perf", "script", "-i", data, "-F", "tid,ip,sym,dso"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found: Counter[str] = Counter()
        for sample in told.strip().split("\n\n"):
            thread, _, stack = sample.partition("\n")
            found[part_of(stack) if int(thread) == proxy.pid else OTHERS] += 1
        shares = {name: count / found.total() for name, count in found.most_common()}
        own = sum(shares[name] for name in shares if not name.startswith((KERNEL, OTHERS)))
        return {"outside of the kernel": own} | shares

    def _strace(self, load: Load) -> dict[str, float]:
        output = self._state / "strace.txt"
        count = load.clients if load.is_bulk else load.count // 4
        with self._proxy(load, "strace") as proxy:
            command = ["strace", "-q", "-c", "-f", "-p", str(proxy.pid), "-o", str(output)]
            with _attached(command):
                self._run(load, proxy, count)
        units = count * load.size / MB if load.is_bulk else count
        lines = map(_STRACE_LINE.match, output.read_text().splitlines())
        return {found[2]: int(found[1]) / units for found in lines if found and found[2] != "total"}

    def _sampled(self, load: Load) -> dict[str, float]:
        output = self._state / "samples.json"
        sampler = (sys.executable, SCRIPTS / "bench_src" / "sampled.py", output)
        with self._proxy(load, "sampled", sampler) as proxy:
            _written(proxy, output)
            self._run(load, proxy, load.count * 4)
            places = _written(proxy, output)
        layers: Counter[str] = Counter()
        for place, count in places.items():
            layers[layer_of(place)] += count
        return {name: count / layers.total() for name, count in layers.most_common()}


@contextmanager
def _attached(command: list[str | Path]) -> Iterator[None]:
    """A tool that watches a process during the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(0.5)  # neither tool says that it is ready
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    if process.returncode not in (0, -signal.SIGINT, 128 + signal.SIGINT):
        raise BenchmarkFailed(f"{command[0]}: {told.decode().strip()[-300:]}")


def _written(proxy: Proxy, output: Path) -> dict[str, int]:
    """Have the sampler write its counts."""
    output.unlink(missing_ok=True)
    os.kill(proxy.pid, signal.SIGCONT)
    deadline = time.monotonic() + WRITTEN_WITHIN
    while not output.exists():
        if time.monotonic() > deadline:
            raise BenchmarkFailed("the sampler wrote nothing")
        time.sleep(0.05)
    counts: dict[str, int] = json.loads(output.read_text())
    return counts


def part_of(stack: str) -> str:
    """Name the part of a sample of the main thread: a system call, or a file of the program."""
    call = _SYSTEM_CALL.search(stack)
    if call is not None:
        return f"{KERNEL}: `{call[1]}`"
    innermost = stack.lstrip().partition("\n")[0]
    if innermost.startswith("ffffffff"):
        return f"{KERNEL}: interrupts, faults, entry and exit"
    if _COLLECTING.search(innermost):
        return "garbage collection"
    return next((name for part, name in PROGRAM_PARTS if part in innermost), "libc and others")


def layer_of(place: str) -> str:
    """Name the layer of a place that the sampler noted."""
    return next((layer for start, layer in LAYERS if place.startswith(start)), "the interpreter")


def as_markdown(broken: dict[str, Broken]) -> str:
    """Three tables, a column for each load."""
    names = [*broken]
    parts = [
        _table("CPU", names, {n: one.shares for n, one in broken.items()}, "{:.0%}", LEAST),
        _table("the main thread, all", names, {n: one.layers for n, one in broken.items()},
               "{:.0%}", LEAST),
        _table("system calls", names, {n: one.calls for n, one in broken.items()}, "{:.2f}", 0.01),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _table(
    title: str, names: list[str], figures: dict[str, dict[str, float]], form: str, least: float
) -> str:
    """A line for each figure that is large enough somewhere, the largest first."""
    most: dict[str, float] = {}
    for one in figures.values():
        for line, figure in one.items():
            most[line] = max(most.get(line, 0.0), figure)
    lines = [f"| {title} | {' | '.join(names)} |", "| --- |" + " --: |" * len(names)]
    for line in sorted(most, key=lambda line: -most[line]):
        if most[line] >= least:
            cells = (figures[name].get(line) for name in names)
            texts = ("" if figure is None else form.format(figure) for figure in cells)
            lines.append(f"| {line} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*PARTS], action="append")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md")
    given = parser.parse_args()
    for program in ("perf", "strace"):
        if shutil.which(program) is None:
            raise BenchmarkFailed(f"the breakdown needs {program}, got none in PATH")
    loads = {load.name: load for load in LOADS}
    with tempfile.TemporaryDirectory(prefix="nono-trio-bench-") as root:
        tools, state = Path(root), Path(root) / "state"
        state.mkdir()
        build_tools(tools)
        with origin(tools) as port:
            breakdown = Breakdown(tools, state, port)
            broken = {}
            for part in given.only or PARTS:
                print(f"bench: {part}", file=sys.stderr, flush=True)
                broken[part] = breakdown.of(loads[PARTS[part]])
    text = as_markdown(broken)
    print(text)
    if given.write_docs:
        replace_tables(PAGE, "breakdown", text)


if __name__ == "__main__":
    try:
        main()
    except (BenchmarkFailed, subprocess.SubprocessError) as failure:
        sys.exit(f"bench: {failure}")
