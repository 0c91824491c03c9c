"""Which TCP ports a program of this machine listens at, as seen on loopback.

The kernel lists listening sockets first, so reading ends before the connections.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TABLES: Final = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_MOST_LINES: Final = 4096  # more listeners than a machine has; reading them takes 5 ms
_LISTEN: Final = "0A"
_EVERYWHERE: Final = ("0" * 8, "0" * 32)
# The kernel prints each word of an address in the machine's order: these are for both orders.
_LOOPBACK: Final = (
    "0100007F", "7F000001", "0" * 24 + "01000000", "0" * 31 + "1",
    "0" * 16 + "FFFF0000" + "0100007F", "0" * 16 + "0000FFFF" + "7F000001",
)  # fmt: skip


def loopback_listeners() -> frozenset[int]:
    """Return the ports that a connection to 127.0.0.1 or ::1 finds open; empty if unknown."""
    found: set[int] = set()
    for table in _TABLES:
        with suppress(OSError, ValueError):
            found.update(_ports(table))
    return frozenset(found)


def _ports(table: str) -> Iterator[int]:
    with open(table, encoding="ascii") as lines:
        next(lines, None)
        for line, _ in zip(lines, range(_MOST_LINES), strict=False):
            _, local, _, state, *_ = line.split()
            if state != _LISTEN:
                return
            address, _, port = local.partition(":")
            if address in _EVERYWHERE or address in _LOOPBACK:
                yield int(port, 16)
