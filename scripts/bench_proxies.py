"""nono-trio's proxy under load, interleaved with every peer: CPU, latency, throughput, memory.

Rules: a peer's figure is compared with a figure of ours that was measured right before or right
after it. The order changes from round to round, so that a machine that slows down slows both.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from bench_load import measure, origin, our_proxy, separate_cpus
from bench_loads import LOADS, MB, Load
from bench_report import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench_load import Proxy, Sample

PER_REQUESTS, PER_BYTES = 1000, 1000 * MB
REQUESTS: Final = "CPU s per 1,000 requests"
BYTES: Final = "CPU s per GB"
P50, P99 = "latency p50, ms", "latency p99, ms"
SPEED: Final = "throughput, MB/s"
MEMORY: Final = "peak memory, MB"
_WARM_UP, _QUICK_WARM_UP = 200, 20  # requests before anything counts: imports, caches, allocator


class Compared:
    """Ours and one peer: a row for each load, and those of latency, throughput and memory."""

    def __init__(self, peer: Proxy) -> None:
        self.peer = peer
        self._loads = [load for load in LOADS if load.mode not in peer.lacks]
        self._costs = {load: self._row(load.name, _unit(load), load.aims) for load in self._loads}
        self._latencies = {
            (load, unit): self._row(load.name, unit, {})
            for unit in (P50, P99)
            for load in self._loads
            if load.has_latency
        }
        self._speeds = {
            load: self._row(load.name, SPEED, load.speed_aims, at_least=True)
            for load in self._loads
            if load.is_bulk
        }
        self._memory = self._row("at its peak, over all loads", MEMORY, {})
        self._memory.ours, self._memory.peer = [0.0], [0.0]

    def _row(self, name: str, unit: str, aims: dict[str, float], *, at_least: bool = False) -> Row:
        aim = aims.get(self.peer.name)
        return Row(name, unit, aim, peer_name=self.peer.name, at_least=at_least)

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        parts = (self._costs, self._latencies, self._speeds)
        return [row for part in parts for row in part.values()] + [self._memory]

    def add(self, load: Load, ours: Sample, theirs: Sample) -> None:
        """Add the samples of one load in one round."""
        row = self._costs[load]
        row.add(_cost(load, ours), _cost(load, theirs))
        row.speeds.append(_speed(ours) / _speed(theirs))
        if load.has_latency:
            self._latencies[load, P50].add(ours.p50 / 1000, theirs.p50 / 1000)
            self._latencies[load, P99].add(ours.p99 / 1000, theirs.p99 / 1000)
        if load.is_bulk:
            self._speeds[load].add(_speed(ours) / MB, _speed(theirs) / MB)
        self._memory.ours[0] = max(self._memory.ours[0], ours.peak_megabytes)
        if self._memory.peer is not None:
            self._memory.peer[0] = max(self._memory.peer[0], theirs.peak_megabytes)


class _Bench:
    def __init__(self, tools: Path, ours: Proxy, origin_port: int, *, quick: bool) -> None:
        self._tools = tools
        self._ours = ours
        self._origin_port = origin_port
        self._quick = quick

    def warm_up(self, proxies: Sequence[Proxy]) -> None:
        """Let each do everything once, so that no first time is measured."""
        for proxy in proxies:
            for mode in ("connect", "deny"):
                self._run(Load("", mode, 8, _WARM_UP, _QUICK_WARM_UP), proxy)

    def run_round(self, compared: Sequence[Compared], *, is_even: bool) -> None:
        """Run every load once against each peer, and against ours beside it."""
        order = compared if is_even else compared[::-1]
        for load in LOADS:
            able = [one for one in order if load.mode not in one.peer.lacks]
            for at in range(0, len(able), 2):
                self._run_beside(load, able[at : at + 2], ours_first=not is_even)

    def _run_beside(self, load: Load, pair: Sequence[Compared], *, ours_first: bool) -> None:
        """Ours between two peers, or before or after one."""
        proxies = [one.peer for one in pair]
        proxies.insert(0 if len(pair) == 1 and ours_first else 1, self._ours)
        samples = {proxy.name: self._run(load, proxy) for proxy in proxies}
        for one in pair:
            one.add(load, samples[self._ours.name], samples[one.peer.name])

    def _run(self, load: Load, proxy: Proxy) -> Sample:
        count = load.quick if self._quick else load.count
        size = load.quick_size if self._quick else load.size
        if not self._quick and load.is_bulk:
            size = int(size * proxy.share)
        elif not self._quick:
            count = int(count * proxy.share)
        return measure(
            self._tools, proxy, self._origin_port,
            mode=load.mode, clients=load.clients, count=count, size=size,
        )  # fmt: skip


def measure_proxies(
    tools: Path,
    state: Path,
    peers: Sequence[AbstractContextManager[Proxy]],
    rounds: int,
    tell: Callable[[str], None],
    *,
    quick: bool,
) -> list[Row]:
    """Return the rows of every peer."""
    with ExitStack() as stack:
        ours = stack.enter_context(our_proxy(state))
        compared = [Compared(stack.enter_context(peer)) for peer in peers]
        proxies = [ours, *(one.peer for one in compared)]
        stack.enter_context(separate_cpus(proxies))
        bench = _Bench(tools, ours, stack.enter_context(origin(tools)), quick=quick)
        bench.warm_up(proxies)
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            bench.run_round(compared, is_even=number % 2 == 0)
    return [row for one in compared for row in one.rows]


def _unit(load: Load) -> str:
    return BYTES if load.is_bulk else REQUESTS


def _cost(load: Load, sample: Sample) -> float:
    return sample.cpu_seconds / sample.amount * (PER_BYTES if load.is_bulk else PER_REQUESTS)


def _speed(sample: Sample) -> float:
    return sample.amount / sample.seconds
