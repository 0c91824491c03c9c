"""Intercepted requests: nono-trio against mitmproxy, interleaved, and what an interception costs.

mitmproxy is the best-known proxy that ends TLS, and a Python program too. It makes fewer requests
for a figure, because each takes several times as long; the figures are for one request. Without
mitmproxy the rows have our figures alone. docs/benchmarks.md describes each row.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench_load import separate_cpus
from bench_report import Row
from bench_tls import (
    HOSTS,
    MITMDUMP,
    TlsOrigin,
    TlsProxy,
    find_mitmdump,
    finish,
    host_addresses,
    measure_tls,
    mitmproxy,
    our_interception,
    tls_load,
    tls_origin,
)
from processes import peak_megabytes, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench_tls import TlsSample

MB: Final = 1_000_000
AIM: Final = 0.35  # of mitmproxy's CPU
MEMORY_AIM: Final = 80.0  # MB with HOSTS intercepted hosts open
REQUESTS: Final = "intercepted, CPU s per 1,000"
BYTES: Final = "intercepted, CPU s per GB"
LATENCY: Final = "intercepted, latency in ms"
MEMORY: Final = "intercepted, memory in MB"
WARM_UP: Final = 50
QUICK_HOSTS: Final = 10


@dataclass(frozen=True)
class TlsLoad:
    """One row's load. `count`, `peer_count` and `quick` are requests or events, or transfers of
    `size` (`quick_size`) bytes."""

    name: str
    mode: str
    clients: int
    count: int
    peer_count: int
    quick: int
    aim: float | None = AIM
    size: int = 0
    quick_size: int = 0
    has_latency: bool = False


LOADS: Final = (
    TlsLoad("HTTP/1.1, 32 clients", "h1", 32, 8000, 2000, 160, has_latency=True),
    TlsLoad("HTTP/2, 4 clients, 32 streams", "h2", 4, 6000, 2000, 160, has_latency=True),
    TlsLoad("new connections, 8 at a time", "new", 8, 800, 200, 16),
    TlsLoad("server-sent events, 32 streams", "events", 32, 32_000, 16_000, 640),
    TlsLoad("download", "bulk", 1, 4, 2, 1, size=500 * MB, quick_size=2 * MB),
    TlsLoad("upload", "up", 1, 4, 2, 1, size=500 * MB, quick_size=2 * MB),
)


def measure_intercepted(
    directory: Path, state: Path, rounds: int, tell: Callable[[str], None], *, quick: bool
) -> list[Row]:
    """Return the rows of intercepted requests, bytes, latency and memory."""
    program = find_mitmdump()
    if program is None:
        tell(f"mitmproxy: skipped, there is no mitmdump (PATH, or {MITMDUMP})")
    with ExitStack() as stack:
        origin = stack.enter_context(tls_origin(directory / "tls-origin"))
        both = [stack.enter_context(our_interception(state, origin, "intercept"))]
        if program is not None:
            both.append(stack.enter_context(mitmproxy(program, directory / "mitmproxy", origin)))
        stack.enter_context(separate_cpus([one.proxy for one in both]))
        bench = _Bench(both, origin, quick=quick)
        if not quick:
            bench.warm_up()
        for number in range(rounds):
            tell(f"intercepted, round {number + 1} of {rounds}")
            bench.run_round(number)
    rows = bench.rows
    rows.append(_measure_memory(directory, state, program, QUICK_HOSTS if quick else HOSTS))
    return rows


class _Bench:
    def __init__(self, both: list[TlsProxy], origin: TlsOrigin, *, quick: bool) -> None:
        self._both = both
        self._origin = origin
        self._quick = quick
        self._has_peer = len(both) > 1
        self._costs = {load.mode: self._row(load) for load in LOADS}
        self._latencies = {
            (load.mode, part): self._plain_row(f"{load.name}, {part}", LATENCY)
            for load in LOADS
            if load.has_latency
            for part in ("p50", "p99")
        }

    def _row(self, load: TlsLoad) -> Row:
        aim = load.aim if self._has_peer else None
        return self._plain_row(load.name, BYTES if load.size else REQUESTS, aim)

    def _plain_row(self, name: str, unit: str, aim: float | None = None) -> Row:
        return Row(name, unit, aim, peer=[] if self._has_peer else None)

    @property
    def rows(self) -> list[Row]:
        return [*self._costs.values(), *self._latencies.values()]

    def warm_up(self) -> None:
        """Do everything once, so that no first time is measured."""
        for load in LOADS:
            for one in self._both:
                size = load.size // WARM_UP if load.size else 0
                count = 1 if size else WARM_UP
                measure_tls(
                    one, self._origin, load.mode, clients=load.clients, count=count, size=size
                )

    def run_round(self, number: int) -> None:
        for load in LOADS:
            order = self._both if number % 2 == 0 else self._both[::-1]
            samples = {one.proxy.pid: self._run(load, one) for one in order}
            found = [samples[one.proxy.pid] for one in self._both]
            ours, peer = found[0], found[1] if self._has_peer else None
            row = self._costs[load.mode]
            row.add(_cost(load, ours), None if peer is None else _cost(load, peer))
            if peer is not None:
                row.speeds.append((ours.amount / ours.seconds) / (peer.amount / peer.seconds))
            if load.has_latency:
                for part in ("p50", "p99"):
                    theirs = None if peer is None else getattr(peer, part) / 1000
                    self._latencies[load.mode, part].add(getattr(ours, part) / 1000, theirs)

    def _run(self, load: TlsLoad, one: TlsProxy) -> TlsSample:
        count = load.count if one is self._both[0] else load.peer_count
        return measure_tls(
            one,
            self._origin,
            load.mode,
            clients=load.clients,
            count=load.quick if self._quick else count,
            size=load.quick_size if self._quick else load.size,
        )


def _cost(load: TlsLoad, sample: TlsSample) -> float:
    return sample.cpu_seconds / sample.amount * (1000 * MB if load.size else 1000)


def _measure_memory(directory: Path, state: Path, program: str | None, hosts: int) -> Row:
    """The peak of a fresh proxy while a request to each of `hosts` hosts is made and kept open."""
    row = Row(f"{hosts} hosts open", MEMORY, MEMORY_AIM, peer=None)
    with tls_origin(directory / "hosts") as origin:
        with our_interception(state, origin, "hosts", host_addresses(hosts)) as ours:
            ours_used = _peak(ours, origin, hosts)
        theirs_used = None
        if program is not None:
            with mitmproxy(program, directory / "mitmproxy-hosts", origin) as peer:
                theirs_used = _peak(peer, origin, hosts)
    row.add(ours_used, None)
    row.note = None if theirs_used is None else f"mitmproxy: {theirs_used:.0f}"
    return row


def _peak(to: TlsProxy, origin: TlsOrigin, hosts: int) -> float:
    reset_peak_memory(to.proxy.pid)
    with tls_load(to, origin, "hosts", count=hosts) as process:
        finish(process, to, "hosts")
        return peak_megabytes(to.proxy.pid)
