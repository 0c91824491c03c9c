"""The running parts of the benchmark: the C tools, the origin, the proxies, and one measurement.

Rules: everything is on loopback. The C tools are compiled again into the benchmark's own temporary
directory. CPU is counted over the proxy's whole process tree until it is idle after the load, so
that writes after the answer count too.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import cpu_seconds, peak_megabytes, reset_peak_memory, tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCRIPTS = Path(__file__).resolve().parent
NONO_TRIO = Path(sys.executable).with_name("nono-trio")

# An address (TEST-NET-1, RFC 5737), which every peer denies without a look-up. With a name the row
# would measure the resolver of a peer that resolves before it refuses.
DENIED_TARGET = "192.0.2.1"
LOAD_SECONDS = 120.0  # one load; the slowest takes ten
STOP_SECONDS = 15.0  # the grace for open connections and the seal
REST_PAUSE = 0.02  # between two looks at the CPU clock
REST_SECONDS = 1.0  # the longest wait; a proxy that is still busy then is measured anyway
AT_REST = 0.002  # CPU seconds in one pause that count as rest: a poll, not work


_PLAIN = frozenset({"forward", "forwardka"})  # the loads of plain requests


class BenchmarkFailed(Exception):
    """A tool or a proxy failed."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that listens on loopback; `user` is `name:token` for Proxy-Authorization.

    It answers a denied request with `denied_status`, cannot do the modes that it `lacks`, and gets
    only `share` of a load if it is slow.
    """

    name: str
    port: int
    user: str
    pid: int
    denied_status: int = 403
    lacks: frozenset[str] = frozenset()
    share: float = 1.0

    @property
    def authorization(self) -> str:
        """The credentials of HTTP Basic (RFC 7617)."""
        return base64.b64encode(self.user.encode()).decode()


@dataclass(frozen=True)
class Sample:
    """One load against one proxy; `amount` in requests, or in bytes for bulk and upload; `p50` and
    `p99` of a request in microseconds."""

    cpu_seconds: float
    seconds: float
    amount: int
    peak_megabytes: float
    p50: float
    p99: float


def find_compiler() -> str | None:
    """The C compiler, or None."""
    return shutil.which(os.environ.get("CC", "cc"))


def build_tools(directory: Path) -> None:
    """Compile load, origin and limit into `directory`; raises BenchmarkFailed."""
    compiler = find_compiler()
    if compiler is None:
        raise BenchmarkFailed("the benchmark needs a C compiler (cc), got none")
    for name in ("load", "origin", "limit"):
        source = SCRIPTS / "bench_src" / f"{name}.c"
        # -w: the programs are dense on purpose, so warnings are off.
        built = subprocess.run(
            [compiler, "-O2", "-w", "-o", directory / name, source], capture_output=True, text=True
        )
        if built.returncode:
            raise BenchmarkFailed(f"{name}.c did not compile: {built.stderr.strip()[-400:]}")


@contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[tuple[int, str]]:
    """Start a program; give its pid and its first line of output; end it with SIGTERM."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise BenchmarkFailed(f"{command[0]} ended before it was ready")
        yield process.pid, line
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


@contextmanager
def origin(tools: Path) -> Iterator[int]:
    """The origin's port."""
    with running([tools / "origin", "0"]) as (_, line):
        yield int(line)


@contextmanager
def our_proxy(
    state: Path, name: str = "bench", program: Sequence[str | Path] = (NONO_TRIO,)
) -> Iterator[Proxy]:
    """`nono-trio proxy` with its audit on: strict, synced at intervals."""
    command: list[str | Path] = [
        *program, "proxy", "--listen", "127.0.0.1:0", "--allow-domain", "127.0.0.1:*",
        "--audit-mode", "strict", "--audit-sync", "interval", "--name", name,
    ]  # fmt: skip
    with running(command, env=environment(state)) as (pid, line):
        ready = json.loads(line)
        yield Proxy("nono-trio", ready["port"], f"nono:{ready['token']}", pid)


@contextmanager
def rust_proxy() -> Iterator[Proxy]:
    """Upstream's Rust proxy as nono-py ships it."""
    command: list[str | Path] = [sys.executable, SCRIPTS / "bench_src" / "nono_rust.py"]
    with running(command) as (pid, line):
        port, user = line.split()
        yield Proxy("the Rust proxy", int(port), user, pid, lacks=_PLAIN)


@contextmanager
def limit_proxy(tools: Path) -> Iterator[Proxy]:
    """The least that a proxy does, in C: no token, no policy, no log."""
    with running([tools / "limit", "0"]) as (pid, line):
        yield Proxy("the limit", int(line), "", pid, lacks=_PLAIN)


def environment(state: Path) -> dict[str, str]:
    """Our environment without settings of the user's; sessions go to `state`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("NONO_TRIO_")}
    return kept | {"NONO_TRIO_STATE_DIR": str(state)}


@contextmanager
def separate_cpus(proxies: Sequence[Proxy]) -> Iterator[None]:
    """Give the proxies one CPU, and all programs started inside the other CPUs, if there are any.

    Otherwise the figures measure how the kernel moves load and proxy between CPUs.
    """
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        yield
        return
    first = min(cpus)
    for proxy in proxies:
        _pin(proxy.pid, {first})
    os.sched_setaffinity(0, cpus - {first})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def _pin(pid: int, cpus: set[int]) -> None:
    """Pin every thread of a tree, and the threads it will start, to `cpus`."""
    for one in tree(pid):
        for task in os.listdir(f"/proc/{one}/task"):
            os.sched_setaffinity(int(task), cpus)


def measure(
    tools: Path, proxy: Proxy, origin_port: int, *, mode: str, clients: int, count: int, size: int
) -> Sample:
    """Run one load to its end: `count` requests (or transfers of `size` bytes) by `clients`."""
    status = str(proxy.denied_status)
    deny = ["-T", DENIED_TARGET, "-x", status] if mode == "deny" else []
    auth = ["-a", proxy.authorization] if proxy.user else []
    numbers = {"-p": proxy.port, "-o": origin_port, "-c": clients, "-n": count, "-b": size}
    words = [word for flag, number in numbers.items() for word in (flag, str(number))]
    reset_peak_memory(proxy.pid)
    before = cpu_seconds(proxy.pid)
    finished = subprocess.run(
        [tools / "load", "-m", mode, *auth, *words, *deny],
        capture_output=True, text=True, timeout=LOAD_SECONDS,
    )  # fmt: skip
    used = cpu_at_rest(proxy.pid) - before
    result = _parse(finished)
    wanted = count * size if mode in ("bulk", "up") else count
    done = result["bytes"] if mode in ("bulk", "up") else result["ok"]
    if result["err"] or done < wanted:
        said = finished.stderr.strip()[-400:]
        raise BenchmarkFailed(
            f"{mode} by {proxy.name}: {done:,} of {wanted:,} done, {result['err']:,} errors,"
            f" by kind {result['errs']}; {said or 'nothing on stderr'}"
        )
    peak = peak_megabytes(proxy.pid)
    return Sample(used, result["secs"], done, peak, result["p50_us"], result["p99_us"])


def _parse(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(finished.stdout)
    except ValueError:
        raise BenchmarkFailed(f"the load failed: {finished.stderr.strip()[-400:]}") from None
    return result


def cpu_at_rest(pid: int) -> float:
    deadline = time.monotonic() + REST_SECONDS
    used = cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(REST_PAUSE)
        before, used = used, cpu_seconds(pid)
        if used - before < AT_REST:
            break
    return used
