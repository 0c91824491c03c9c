"""The cost of the transparent network, compared with CONNECT in the same session.

The command of one `nono-trio run` reads loads from stdin and runs them in the cage, in turn without
the proxy (to the address that the cage's DNS returns) and through it. CPU is the supervisor's
alone, until it is idle. Needs root, because the origins listen on ports 80 and 443 of loopback.
See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench_load import (
    AT_REST,
    NONO_TRIO,
    REST_PAUSE,
    STOP_SECONDS,
    BenchmarkFailed,
    build_tools,
    environment,
    running,
)
from msgspec.json import decode
from processes import own_cpu_seconds, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "bench.example.com"
CLIENTS = 32
BULK_TUNNELS = 8
TUNNEL_PORT = 5000

# Runs in the cage. A line is a load: mode, origin's port, requests, clients, bytes, first file.
DRIVER = """
address=$(getent ahostsv4 bench.example.com | head -n 1 | cut -d ' ' -f 1)
user=${HTTP_PROXY#http://}; port=${user##*:}; user=${user%@*}
echo ready
while read -r mode origin count clients bytes first; do
  case $mode in
    direct*) to="-A $address" ;;
    *) to="-p $port -T bench.example.com -a $(printf %s "$user" | base64 -w 0)" ;;
  esac
  "$0" -m "$mode" -o "$origin" -H bench.example.com -n "$count" -c "$clients" -b "$bytes" \\
    ${first:+-R "$first"} $to
done
"""


@dataclass
class Case:
    """One kind of load; `ratios` has CPU without the proxy divided by CPU with it, by round."""

    name: str
    modes: tuple[str, str]
    port: int
    count: int
    clients: int = CLIENTS
    size: int = 0
    first: str = ""
    ratios: list[float] = field(default_factory=list)

    def line(self, mode: str) -> str:
        """The driver's input line for this load."""
        return f"{mode} {self.port} {self.count} {self.clients} {self.size} {self.first}\n"


class Session:
    """The run; its supervisor is measured."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def cpu_of(self, case: Case, mode: str) -> float:
        """The supervisor's CPU seconds for one load; raises BenchmarkFailed if it has errors."""
        before = self._at_rest()
        if self.process.stdin is None or self.process.stdout is None:
            raise BenchmarkFailed("the run has no pipes")
        self.process.stdin.write(case.line(mode))
        self.process.stdin.flush()
        result = decode(self.process.stdout.readline() or b"{}")
        if result.get("ok") != case.count or result["err"]:
            raise BenchmarkFailed(f"{case.name}, {mode}: expected {case.count} done, got {result}")
        return self._at_rest() - before

    def _at_rest(self) -> float:
        used = own_cpu_seconds(self.process.pid)
        while True:
            time.sleep(REST_PAUSE)
            before, used = used, own_cpu_seconds(self.process.pid)
            if used - before < AT_REST:
                return used

    @property
    def resident_megabytes(self) -> float:
        """The supervisor's resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start(stack: ExitStack, tools: Path, state: Path) -> Session:
    """Start origins and the run; give the supervisor a CPU of its own."""
    options = ["--silent", "--read", str(tools)]
    for port in (80, 443, TUNNEL_PORT):
        stack.enter_context(running([tools / "origin", str(port)]))
        options += ["--allow-domain", f"{HOST}:{port}", "--resolve", f"{HOST}:{port}:127.0.0.1"]
    process = stack.enter_context(
        subprocess.Popen(
            [NONO_TRIO, "run", *options, "--", "bash", "-c", DRIVER, tools / "load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(state),
        )
    )  # fmt: skip
    stack.callback(process.wait, STOP_SECONDS)
    if process.stdin is not None:
        stack.callback(process.stdin.close)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise BenchmarkFailed("the run ended before it was ready")
    cpus = sorted(os.sched_getaffinity(0))
    for pid in tree(os.getpid()):
        with suppress(OSError):
            os.sched_setaffinity(pid, cpus[:1] if pid == process.pid else cpus[1:] or cpus)
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus[:1])
    return Session(process)


def cases(tools: Path, count: int, size: int) -> Iterator[Case]:
    """The loads. For TLS an OpenSSL hello is enough, because the proxy reads only the hello."""
    hello = tools / "hello"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello.write_bytes(outgoing.read())
    pair = ("direct", "connect")
    yield Case("HTTP on port 80, by CONNECT", pair, 80, count)
    yield Case("HTTP on port 80, by forwarding", ("direct", "forward"), 80, count)
    yield Case("TLS on port 443", pair, 443, count, first=str(hello))
    yield Case("a tunnel on another port", pair, TUNNEL_PORT, count)
    bulk = ("directbulk", "bulk")
    yield Case("bulk", bulk, TUNNEL_PORT, BULK_TUNNELS, BULK_TUNNELS, size)


def main() -> None:
    """Measure, and print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000, help="connections of one load")
    parser.add_argument("--bytes", type=int, default=10**9, help="of each bulk tunnel")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        tools, state = Path(directory, "tools"), Path(directory, "state")
        tools.mkdir()
        build_tools(tools)
        session = start(stack, tools, state)
        loads = [*cases(tools, given.count, given.bytes)]
        for turn in range(given.rounds):
            for case in loads:
                modes = case.modes if turn % 2 == 0 else case.modes[::-1]
                used = {mode: session.cpu_of(case, mode) for mode in modes}
                case.ratios.append(used[case.modes[0]] / used[case.modes[1]])
            print(f"round {turn + 1}: resident {session.resident_megabytes:.1f} MB", flush=True)
    for case in loads:
        spread = f"{min(case.ratios):.2f}-{max(case.ratios):.2f}"
        print(f"{case.name:<34} {median(case.ratios):.2f}  {spread}")


if __name__ == "__main__":
    try:
        main()
    except BenchmarkFailed as failure:
        sys.exit(f"bench: {failure}")
