"""Serve mixed load for minutes by one `nono-trio proxy`, sample it, and say whether it stays flat.

    scripts/soak [--minutes 30] [--every 2] [--output DIRECTORY]

The load, each kind by threads of its own in bursts: CONNECT, plain requests with and without
keep-alive, denied ones, transfers of 1 MiB both ways, intercepted TLS. Sampled are the resident
memory, the descriptors and the threads of the proxy's process, its tasks and the CPU time of a turn
of its loop (soak_watched.py), and the time from CONNECT to its answer on new connections. DIRECTORY
gets soak.csv and soak.svg. At the end the proxy is asked to end, and its log is verified. The exit
code is 1 if anything grew.
Needs a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench_load import (
    DENIED_TARGET,
    SCRIPTS,
    BenchmarkFailed,
    build_tools,
    environment,
    origin,
    running,
)
from bench_tls import tls_origin
from soak_samples import as_svg, judge, write_csv

from nono_trio.audit.verify.session import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from soak_samples import Sample

MINUTES = 30.0
EVERY = 2.0  # seconds
INTERCEPTED = "127.0.1.1"  # the TLS origin's certificate has it
KINDS = ("connect", "forward", "forwardka", "deny", "bulk", "up")
BURST, CLIENTS, SIZE = 100, 8, 1 << 20
PAUSE = 0.2  # seconds between two bursts of a kind: the proxy is loaded, not saturated
PROBES = 5
BOUND = 60.0


class Soak:
    """A proxy under load."""

    def __init__(self, tools: Path, ready: dict[str, object], plain: int, tls: int) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self._tools, self._plain, self._tls = tools, plain, tls
        self._port = ready["port"]
        self._ca_file = str(ready["ca_file"])
        self._authorization = _basic(f"nono:{ready['token']}")
        self._ends = threading.Event()

    def start(self) -> list[threading.Thread]:
        """Start the threads of the load."""
        works: list[Callable[[], None]] = [self._intercepted]
        works += [lambda kind=kind: self._burst(kind) for kind in KINDS]
        threads = [threading.Thread(target=self._until_end, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        return threads

    def end(self) -> None:
        """Have the threads end after their burst."""
        self._ends.set()

    def probe(self) -> float:
        """The median time of a CONNECT, in milliseconds."""
        times = []
        for _ in range(PROBES):
            began = time.perf_counter()
            self._tunnel("127.0.0.1", self._plain).close()
            times.append((time.perf_counter() - began) * 1000)
        return median(times)

    def _until_end(self, work: Callable[[], None]) -> None:
        while not self._ends.wait(PAUSE):
            try:
                work()
            except (OSError, BenchmarkFailed, subprocess.SubprocessError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    def _burst(self, kind: str) -> None:
        large = kind in ("bulk", "up")
        count = BURST // 10 if large else BURST
        command = [
            self._tools / "load", "-m", kind, "-a", self._authorization, "-p", str(self._port),
            "-o", str(self._plain), "-c", str(CLIENTS), "-n", str(count), "-b", str(SIZE),
        ]  # fmt: skip
        if kind == "deny":
            command += ["-T", DENIED_TARGET, "-x", "403"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND)
        told = json.loads(done.stdout or '{"ok": 0, "err": 1}')
        if told["err"]:
            raise BenchmarkFailed(f"{kind}: {told['err']} errors; {done.stderr.strip()[-200:]}")
        self.answered[kind] += told["ok"]

    def _intercepted(self) -> None:
        context = ssl.create_default_context(cafile=self._ca_file)
        tunnel = self._tunnel(INTERCEPTED, self._tls)
        with tunnel, context.wrap_socket(tunnel, server_hostname=INTERCEPTED) as sock:
            for _ in range(BURST // 10):
                request = f"GET /small HTTP/1.1\r\nHost: {INTERCEPTED}:{self._tls}\r\n\r\n"
                sock.sendall(request.encode())
                answer = b""
                while not answer.endswith(b"\r\n\r\nok"):
                    more = sock.recv(65536)
                    if not more:
                        raise BenchmarkFailed(f"intercepted: cut off after {answer[:200]!r}")
                    answer += more
                self.answered["intercepted"] += 1

    def _tunnel(self, host: str, port: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), BOUND)
        head = (
            f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Proxy-Authorization: Basic {self._authorization}\r\n\r\n"
        )
        sock.sendall(head.encode())
        answer = sock.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise BenchmarkFailed(f"CONNECT was answered {answer[:100]!r}")
        return sock


def _basic(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def sample(pid: int, watched: Path) -> tuple[float, ...]:
    """Resident MB, descriptors, threads, tasks of a process, and the turns of its loop."""
    watched.unlink(missing_ok=True)
    os.kill(pid, signal.SIGCONT)
    ends = time.monotonic() + BOUND
    while not watched.exists():
        if time.monotonic() > ends:
            raise BenchmarkFailed("the loop says nothing")
        time.sleep(0.01)
    loop = json.loads(watched.read_text())
    process = Path(f"/proc/{pid}")
    for line in (process / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            resident = int(line.split()[1]) * 1024 / 1e6
    descriptors = len([*(process / "fd").iterdir()])
    threads = len([*(process / "task").iterdir()])
    counts = map(float, (descriptors, threads, loop["tasks"]))
    return resident, *counts, loop["p99"], loop["most"]


def soak(directory: Path, minutes: float, every: float) -> tuple[list[Sample], Soak, Path]:
    """Run the soak; return the samples, the load's counts and the session's directory."""
    build_tools(directory)
    samples: list[Sample] = []
    with ExitStack() as stack:
        plain = stack.enter_context(origin(directory))
        tls = stack.enter_context(tls_origin(directory / "tls"))
        watched = directory / "watched.json"
        command = [
            sys.executable, SCRIPTS / "soak_watched.py", watched, "proxy",
            "--allow-domain", "127.0.0.1:*", "--allow-domain", f"{INTERCEPTED}:{tls.port}",
            "--intercept", INTERCEPTED, "--upstream-ca", tls.ca_file,
        ]  # fmt: skip
        pid, line = stack.enter_context(running(command, env=environment(directory / "state")))
        load = Soak(directory, json.loads(line), plain, tls.port)
        threads = load.start()
        began = time.monotonic()
        try:
            while (seconds := time.monotonic() - began) < minutes * 60:
                samples.append((seconds, *sample(pid, watched), load.probe()))
                time.sleep(every)
        finally:
            load.end()
            for thread in threads:
                thread.join()
        session = Path(json.loads(line)["session_dir"])
    return samples, load, session


def main() -> int:
    """Run, write, say; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="docs/reliability.md")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--every", type=float, default=EVERY, help="seconds between two samples")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIRECTORY")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        samples, load, session = soak(Path(directory), options.minutes, options.every)
        answer = verify(session)
    write_csv(options.output / "soak.csv", samples)
    (options.output / "soak.svg").write_text(as_svg(samples))
    print(f"{samples[-1][0]:.0f} s, {len(samples)} samples, answers: {dict(load.answered)}")
    print(f"the log: {answer.verdict}, {answer.event_count} records")
    judged = judge(samples)
    print("\n".join(map(str, judged)))
    for failure in load.failed[:5]:
        print(f"FAILED {failure}")
    held = answer.verdict == "verified" and not load.failed and all(one.is_flat for one in judged)
    return 0 if held else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkFailed as failure:
        sys.exit(f"soak: {failure}")
