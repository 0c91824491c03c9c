"""The rows of load: what one unit is, how many there are, and the aims by peer.

Rules of this file: data, and no measuring. An aim bounds our figure divided by the peer's; a
throughput is to be larger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MB: Final = 1_000_000
RUST, TINYPROXY, SQUID = "the Rust proxy", "tinyproxy", "squid"
LATENCY_CLIENTS: Final = 32  # the loads whose latencies are shown


@dataclass(frozen=True, eq=False)
class Load:
    """One row's load. `count` and `quick` are requests, or transfers of `size` (`quick_size`)."""

    name: str
    mode: str
    clients: int
    count: int
    quick: int
    aims: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    quick_size: int = 0
    speed_aims: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_bulk(self) -> bool:
        """Return true if the load counts bytes, not requests."""
        return self.size > 0

    @property
    def has_latency(self) -> bool:
        """Return true if the latency of a request is shown."""
        return self.clients == LATENCY_CLIENTS and not self.is_bulk


def _tunnel_aims(by_rust: float) -> dict[str, float]:
    """A CONNECT is to cost less than with the two proxies in C and C++."""
    return {RUST: by_rust, TINYPROXY: 1.0, SQUID: 1.0}


# Each takes about half a second of CPU on a slow machine, except with --quick.
LOADS: Final = (
    Load("CONNECT, 1 client", "connect", 1, 2000, 50, _tunnel_aims(1.6)),
    Load("CONNECT, 32 clients", "connect", 32, 4000, 96, _tunnel_aims(1.25)),
    Load("CONNECT, 256 clients", "connect", 256, 4000, 256, _tunnel_aims(1.1)),
    Load("deny, 32 clients", "deny", 32, 5000, 96, {RUST: 0.85}),
    Load("forward, 32 clients, one each", "forward", 32, 3000, 96, {SQUID: 0.85}),
    Load("forward, 32 clients, keep-alive", "forwardka", 32, 6000, 96, {SQUID: 1.0}),
    Load("bulk, 1 tunnel", "bulk", 1, 4, 1, {RUST: 0.42}, 200 * MB, 5 * MB),
    Load("bulk, 8 tunnels", "bulk", 8, 8, 8, {RUST: 0.42}, 100 * MB, 1 * MB, {RUST: 1.3}),
    Load("upload, 1 tunnel", "up", 1, 4, 1, {RUST: 0.48}, 200 * MB, 5 * MB),
    Load("upload, 8 tunnels", "up", 8, 8, 8, {RUST: 0.48}, 100 * MB, 1 * MB, {RUST: 1.3}),
)
