"""The cost of open tunnels: memory of each, and CPU of one more request beside them.

    .venv/bin/python scripts/bench_tunnels.py [--tunnels N]... [--write-docs]

One `nono-trio proxy --max-connections` and N idle tunnels: 5,000, and as many as it takes on this
machine, which the hard limit of open files decides. Each needs four descriptors: two of the proxy,
one of the load, one of the origin. When as many are open as it takes, the next client must get its
503; then the proxy is ended with all of them open, and its log must be verified. Needs a C
compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
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
from bench_page import replace_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
PART = "tunnels"
TUNNELS = 5000
REQUESTS, CLIENTS, ROUNDS = 3000, 32, 3
SPARE = 4 * CLIENTS  # a client may come before the end of the one before it is noted
AIM_KIB = 5.0


@dataclass(frozen=True)
class Figures:
    """`kib`: resident memory of each tunnel. `cost` and `cost_without`: CPU us of a CONNECT."""

    tunnels: int
    kib: float
    cost: float
    cost_without: float


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


def most_connections() -> int:
    """How many connections the proxy takes at most, as its own message says."""
    refused = subprocess.run(
        [NONO_TRIO, "proxy", "--max-connections", "1000000"], capture_output=True, text=True
    )
    found = re.search(r"hint: --max-connections (\d+)", refused.stderr)
    if found is None:
        raise BenchmarkFailed(f"no limit of connections in {refused.stderr!r}")
    return int(found[1])


def measure_tunnels(directory: Path, count: int) -> Figures:
    """Measure `count` open tunnels, with room for SPARE more; then fill that up, and end it."""
    state = directory / str(count)
    command = [
        NONO_TRIO, "proxy", "--allow-domain", "127.0.0.1:*",
        "--max-connections", str(count + SPARE),
    ]  # fmt: skip
    with origin(directory) as port, running(command, env=environment(state)) as (pid, line):
        ready = json.loads(line)
        proxy = Proxy("nono-trio", ready["port"], f"nono:{ready['token']}", pid)
        with separate_cpus([proxy]):
            before_cost = request_cost(directory, proxy, port)
            before = resident(pid)
            with held(directory, proxy, port, count):
                each = (resident(pid) - before) / count
                cost = request_cost(directory, proxy, port)
                with held(directory, proxy, port, SPARE):
                    check_refused(proxy, port)
                    check_end(pid, state, ready["session_id"])
    return Figures(count, each / 1024, cost, before_cost)


def check_refused(proxy: Proxy, port: int) -> None:
    """Raise BenchmarkFailed unless the next client gets a 503 with the reason."""
    target = f"127.0.0.1:{port}"
    request = (
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        f"Proxy-Authorization: Basic {proxy.authorization}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port), 60) as client:
        client.sendall(request.encode())
        answer = client.makefile("rb").read().decode()
    if not answer.startswith("HTTP/1.1 503 ") or "--max-connections" not in answer:
        raise BenchmarkFailed(f"the next client got {answer!r}")


def check_end(pid: int, state: Path, session: str) -> None:
    """End the proxy; raise BenchmarkFailed unless it ends well and its log is verified."""
    os.kill(pid, signal.SIGTERM)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    verified = subprocess.run(
        [NONO_TRIO, "audit", "verify", session], env=environment(state), capture_output=True,
        text=True,
    )  # fmt: skip
    if ended is None or ended.si_code != os.CLD_EXITED or verified.returncode:
        raise BenchmarkFailed(f"the end: {ended}, {verified.stdout}{verified.stderr}")


def as_table(measured: Sequence[Figures]) -> str:
    """The table of the page."""
    lines = [
        "| open tunnels | memory of each | aim | | CPU of a CONNECT, by that without them |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in measured:
        met = "met" if one.kib <= AIM_KIB else "not met"
        ratio = one.cost / one.cost_without
        lines.append(
            f"| {one.tunnels:,} | {one.kib:.1f} KiB | <= {AIM_KIB:g} KiB | {met} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure each count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunnels", type=int, action="append", metavar="N")
    parser.add_argument("--write-docs", action="store_true", help=f"write into {PAGE.name}")
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measured = []
    with tempfile.TemporaryDirectory() as directory:
        build_tools(Path(directory))
        for count in given.tunnels or (TUNNELS, most_connections() - SPARE):
            figures = measure_tunnels(Path(directory), count)
            measured.append(figures)
            print(
                f"{count:,} tunnels: {figures.kib:.2f} KiB each; a CONNECT takes"
                f" {figures.cost:.0f} us CPU with them, {figures.cost_without:.0f} us without;"
                " the next client got its 503, and the log is verified"
            )
    if given.write_docs:
        replace_tables(PAGE, PART, as_table(measured))


if __name__ == "__main__":
    try:
        main()
    except BenchmarkFailed as failure:
        sys.exit(f"bench: {failure}")
