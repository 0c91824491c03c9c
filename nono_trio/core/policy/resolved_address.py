"""A resolved address with what the policy needs to know of it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from nono_trio.core.net.address import (
    ADDRESS_CACHE,
    AddressClass,
    classify,
    parse_address,
    spellings,
)
from nono_trio.core.net.host import Host

if TYPE_CHECKING:
    from nono_trio.core.net.address import Address


class ResolvedAddress(msgspec.Struct, frozen=True):
    """A resolved address as a host, its class, and its other spellings as hosts."""

    host: Host
    address_class: AddressClass
    spelled: tuple[Host, ...]


@lru_cache(maxsize=ADDRESS_CACHE)
def resolved_address(text: str) -> ResolvedAddress | None:
    """Return an address of an answer; None for a text that is no address."""
    address = parse_address(text)
    if address is None:
        return None
    spelled = in_every_spelling(address)
    return ResolvedAddress(spelled[0], classify(address), spelled)


def in_every_spelling(address: Address) -> tuple[Host, ...]:
    """Return an address as a host, its own spelling first, then the others (mapped, NAT64)."""
    return tuple(Host(str(one), one) for one in spellings(address))
