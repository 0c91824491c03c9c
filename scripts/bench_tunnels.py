"""The cost of open tunnels: memory of each, and CPU of one more request beside them.

    .venv/bin/python scripts/bench_tunnels.py [--tunnels N]...

One `nono-trio proxy --max-connections` and N idle tunnels. Each needs four descriptors on this
machine: two of the proxy, one of the load, one of the origin. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench_load import (
    NONO_TRIO,
    BenchmarkFailed,
    Proxy,
    build_tools,
    environment,
    measure,
    origin,
    running,
    separate_cpus,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TUNNELS = (5000,)
SPARE = 500  # connections of the measured load
REQUESTS, CLIENTS, ROUNDS = 3000, 32, 3


@contextmanager
def held(tools: Path, proxy: Proxy, port: int, count: int) -> Iterator[None]:
    """Hold `count` tunnels open during the block."""
    process = subprocess.Popen(
        [tools / "load", "-m", "hold", "-a", proxy.authorization, "-p", str(proxy.port),
         "-o", str(port), "-c", str(count), "-n", str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline() if process.stdout else ""
        if line != f"READY {count} err=0\n":
            raise BenchmarkFailed(f"{count} tunnels were not opened: {line!r}")
        yield
    finally:
        process.kill()
        process.communicate()


def resident(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def request_cost(tools: Path, proxy: Proxy, port: int) -> float:
    """The least CPU microseconds of a CONNECT in ROUNDS loads."""
    return min(
        measure(
            tools, proxy, port, mode="connect", clients=CLIENTS, count=REQUESTS, size=0
        ).cpu_seconds / REQUESTS * 1e6
        for _ in range(ROUNDS)
    )  # fmt: skip


def measure_tunnels(directory: Path, count: int) -> None:
    """Print the figures of `count` open tunnels."""
    command = [
        NONO_TRIO, "proxy", "--allow-domain", "127.0.0.1:*",
        "--max-connections", str(count + SPARE),
    ]  # fmt: skip
    with (
        origin(directory) as port,
        running(command, env=environment(directory / str(count))) as (pid, line),
    ):
        ready = json.loads(line)
        proxy = Proxy("nono-trio", ready["port"], f"nono:{ready['token']}", pid)
        with separate_cpus([proxy]):
            before_cost = request_cost(directory, proxy, port)
            before = resident(pid)
            with held(directory, proxy, port, count):
                each = (resident(pid) - before) / count
                cost = request_cost(directory, proxy, port)
    print(
        f"{count:,} tunnels: {each / 1024:.2f} KiB each ({before / 1e6:.1f} MB before);"
        f" a CONNECT takes {cost:.0f} us CPU with them, {before_cost:.0f} us without"
    )


def main() -> None:
    """Measure each count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunnels", type=int, action="append", metavar="N")
    counts = parser.parse_args().tunnels or TUNNELS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory() as directory:
        build_tools(Path(directory))
        for count in counts:
            wanted = 2 * count + SPARE
            if hard not in (resource.RLIM_INFINITY,) and wanted > hard:
                raise BenchmarkFailed(f"{count} tunnels need {wanted} open files, limit {hard}")
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
            measure_tunnels(Path(directory), count)


if __name__ == "__main__":
    try:
        main()
    except BenchmarkFailed as failure:
        sys.exit(f"bench: {failure}")
