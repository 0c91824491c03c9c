"""Fake addresses for names inside the cage, where no real address is known.

A program in the cage looks up a name and gets addresses of this table. When it connects to one, the
table returns the name. The addresses have no meaning anywhere else and are never dialled.

Rules of this file: a name keeps its addresses for the whole session, and no other name gets them,
because a program may keep an address as long as it lives. So the table only grows; when it is full
new names are refused, and the names in it still work. A name of which every port is decided has its
addresses in networks of their own, by which a packet filter knows it (launcher/linux/tproxy.py).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.core.net.address import Address

# Half of 198.18.0.0/15 (RFC 2544: benchmarks, never routed); the other half has the cage's own link
# in it. Under 0.5 KiB a name, so 32 MiB if a hostile child fills the table with the longest ones;
# an agent's whole day with a browser meets some thousands of names.
MAX_NAMES: Final = 65_536

_FIRST_IPV4: Final = int(IPv4Address("198.18.0.1"))
# RFC 4193, unique local; its "random" part is the text "nono-". The last /64 of that /48 is the
# cage's own link.
_FIRST_IPV6: Final = int(IPv6Address("fd6e:6f6e:6f2d::1"))

# The networks of the names of which every port is decided, and how many names they have room for.
EVERY_PORT_NETWORKS: Final = ("198.19.128.0/18", "fd6e:6f6e:6f2d:1::/64")
MAX_EVERY_PORT_NAMES: Final = 16_383
_EVERY_PORT_IPV4: Final = int(IPv4Address("198.19.128.1"))
_EVERY_PORT_IPV6: Final = int(IPv6Address("fd6e:6f6e:6f2d:1::1"))


class FakeAddresses:
    """The table of one session. Names are canonical (`Host.name`), at most `limit` of them.

    `has_every_port` tells of a name whether each port of it is decided.
    """

    def __init__(
        self,
        limit: int = MAX_NAMES,
        has_every_port: Callable[[str], bool] = lambda _name: False,
    ) -> None:
        self._has_every_port = has_every_port
        self._places: dict[str, tuple[IPv4Address, IPv6Address]] = {}
        self._ranges = (
            _Range(_FIRST_IPV4, _FIRST_IPV6, min(limit, MAX_NAMES)),
            _Range(_EVERY_PORT_IPV4, _EVERY_PORT_IPV6, min(limit, MAX_EVERY_PORT_NAMES)),
        )

    def __len__(self) -> int:
        return len(self._places)

    def addresses_of(self, name: str) -> tuple[IPv4Address, IPv6Address] | None:
        """The addresses that stand for `name`, handed out if they were not; None when the table
        is full and `name` is not in it."""
        addresses = self._places.get(name)
        if addresses is None:
            addresses = self._ranges[self._has_every_port(name)].add(name)
            if addresses is not None:
                self._places[name] = addresses
        return addresses

    def name_of(self, address: Address) -> str | None:
        """The name that `address` was handed out for; None if it never was."""
        for one in self._ranges:
            name = one.name_of(address)
            if name is not None:
                return name
        return None


class _Range:
    """Addresses in a row, each for the name at its place."""

    def __init__(self, first_ipv4: int, first_ipv6: int, limit: int) -> None:
        self._first_ipv4 = first_ipv4
        self._first_ipv6 = first_ipv6
        self._limit = limit
        self._names: list[str] = []

    def add(self, name: str) -> tuple[IPv4Address, IPv6Address] | None:
        place = len(self._names)
        if place >= self._limit:
            return None
        self._names.append(name)
        return IPv4Address(self._first_ipv4 + place), IPv6Address(self._first_ipv6 + place)

    def name_of(self, address: Address) -> str | None:
        is_ipv4 = isinstance(address, IPv4Address)
        place = int(address) - (self._first_ipv4 if is_ipv4 else self._first_ipv6)
        return self._names[place] if 0 <= place < len(self._names) else None
