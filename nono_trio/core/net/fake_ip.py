"""Fake addresses for names inside the cage, where no real address is known.

A program in the cage looks up a name and gets addresses of this table. When it connects to one, the
table returns the name. The addresses have no meaning anywhere else and are never dialled.

Rules of this file: a name keeps its addresses for the whole session, and no other name gets them,
because a program may keep an address as long as it lives. So the table only grows; when it is full
new names are refused, and the names in it still work.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nono_trio.core.net.address import Address

# Half of 198.18.0.0/15 (RFC 2544: benchmarks, never routed); the other half has the cage's own link
# in it. Under 0.5 KiB a name, so 32 MiB if a hostile child fills the table with the longest ones;
# an agent's whole day with a browser meets some thousands of names.
MAX_NAMES: Final = 65_536

_FIRST_IPV4: Final = int(IPv4Address("198.18.0.1"))
# RFC 4193, unique local; its "random" part is the text "nono-". The last /64 of that /48 is the
# cage's own link.
_FIRST_IPV6: Final = int(IPv6Address("fd6e:6f6e:6f2d::1"))


class FakeAddresses:
    """The table of one session. Names are canonical (`Host.name`), at most `limit` of them."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._limit = min(limit, MAX_NAMES)
        self._names: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def addresses_of(self, name: str) -> tuple[IPv4Address, IPv6Address] | None:
        """The addresses that stand for `name`, handed out if they were not; None when the table
        is full and `name` is not in it."""
        place = self._places.get(name)
        if place is None:
            place = len(self._names)
            if place >= self._limit:
                return None
            self._names.append(name)
            self._places[name] = place
        return IPv4Address(_FIRST_IPV4 + place), IPv6Address(_FIRST_IPV6 + place)

    def name_of(self, address: Address) -> str | None:
        """The name that `address` was handed out for; None if it never was."""
        first = _FIRST_IPV4 if isinstance(address, IPv4Address) else _FIRST_IPV6
        place = int(address) - first
        return self._names[place] if 0 <= place < len(self._names) else None
