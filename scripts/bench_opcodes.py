"""Counts the Python instructions and calls of a request, by function.

    .venv/bin/python scripts/bench_opcodes.py [--only LOAD]... [--functions N]

Unlike times, these counts are nearly the same in each run, also while the machine has other work:
they say what a change of the hot path costs or saves in the interpreter, which has two fifths of a
CONNECT. System calls, hashes and JSON are one instruction each, so a saving here must be measured
by time too. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from bench_load import (
    SCRIPTS,
    BenchmarkFailed,
    build_tools,
    measure,
    origin,
    our_proxy,
)
from bench_loads import LOADS, Load

PARTS: Final = {
    "CONNECT-1": "CONNECT, 1 client",
    "CONNECT": "CONNECT, 32 clients",
    "deny": "deny, 32 clients",
    "plain": "forward, 32 clients, one each",
    "keep-alive": "forward, 32 clients, keep-alive",
}
WARM_UP: Final = 200  # requests
COUNTED: Final = 1000
BEGUN_WITHIN: Final = 0.3  # seconds, for the first signal
WRITTEN_WITHIN: Final = 20.0


class Counted(NamedTuple):
    """A function's instructions and calls, of one request."""

    place: str
    instructions: float
    calls: float


def count(tools: Path, port: int, load: Load) -> list[Counted]:
    """The functions of a request, the dearest first. Raises BenchmarkFailed."""
    output = tools / f"{load.mode}-{load.clients}.json"
    state = tools / f"state-{load.mode}-{load.clients}"
    state.mkdir(mode=0o700)
    program = (sys.executable, SCRIPTS / "bench_src" / "counted.py", output)
    with our_proxy(state, program=program) as proxy:
        numbers = {"mode": load.mode, "clients": load.clients, "size": 0}
        measure(tools, proxy, port, count=WARM_UP, **numbers)
        os.kill(proxy.pid, signal.SIGCONT)
        time.sleep(BEGUN_WITHIN)
        measure(tools, proxy, port, count=COUNTED, **numbers)
        os.kill(proxy.pid, signal.SIGCONT)
        deadline = time.monotonic() + WRITTEN_WITHIN
        while not output.exists():
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"{load.name}: no counts were written")
            time.sleep(0.05)
    found = [
        Counted(f"{_short(file)}:{name}", instructions / COUNTED, calls / COUNTED)
        for file, name, instructions, calls in json.loads(output.read_text())
    ]
    return sorted(found, key=lambda one: -one.instructions)


def _short(file: str) -> str:
    for package in ("/site-packages/", f"{SCRIPTS.parent}/"):
        _, found, place = file.rpartition(package)
        if found:
            return place
    return file.rpartition("/")[2]


def main() -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=PARTS, default=[])
    parser.add_argument("--functions", type=int, default=30, metavar="N", help="the dearest N")
    options = parser.parse_args()
    loads = {load.name: load for load in LOADS}
    with tempfile.TemporaryDirectory() as directory:
        tools = Path(directory)
        build_tools(tools)
        with origin(tools) as port:
            for part in options.only or PARTS:
                found = count(tools, port, loads[PARTS[part]])
                total = sum(one.instructions for one in found)
                calls = sum(one.calls for one in found)
                print(f"{PARTS[part]}: {total:,.0f} instructions in {calls:,.0f} calls")
                for one in found[: options.functions]:
                    print(f"  {one.instructions:7.1f}  {one.calls:6.2f}  {one.place}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkFailed as failure:
        sys.exit(f"bench: {failure}")
