"""Tests if an address is this machine's own, so that a connection to it stays on the machine.

The kernel's routes tell (rtnetlink(7), RTM_GETROUTE). A trial `bind` does not tell: with
`ip_nonlocal_bind` every address can be bound, and an address may be local without being on an
interface. The trial is used only where there is no netlink (macOS, a seccomp filter).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.address import parse_address, spellings

if TYPE_CHECKING:
    from nono_trio.core.net.address import Address

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_ERROR: Final = 2
_NEW_ROUTE, _GET_ROUTE = 24, 26
_REQUEST: Final = 0x1
_DESTINATION: Final = 1
_TYPE_AT: Final = _HEADER.size + 7  # of the route's type in the kernel's answer
# RTN_LOCAL, and RTN_ANYCAST: the subnet router's address, which an IPv6 router has as its own.
_OURS: Final = frozenset({2, 4})
_ANSWER: Final = 4096  # bytes; a route's answer has about 120


def is_local(address: str) -> bool:
    """Return whether `address`, or an IPv4 address embedded in it, is this machine's. Does not
    wait. Returns False if the text is not an address."""
    parsed = parse_address(address)
    if parsed is None:
        return False
    return any(_is_local(one) for one in spellings(parsed))


def _is_local(address: Address) -> bool:
    try:
        return route_type(address) in _OURS
    except OSError:
        return can_be_bound(address)


if sys.platform == "linux":

    def route_type(address: Address) -> int | None:
        """The type of the kernel's route to an address; None without one. Raises OSError."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        packed = address.packed
        route = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        route += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
        request = _HEADER.pack(_HEADER.size + len(route), _GET_ROUTE, _REQUEST, 1, 0) + route
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.sendto(request, (0, 0))
            answer = netlink.recv(_ANSWER, socket.MSG_DONTWAIT)  # made by the time sendto returns
        if len(answer) < _HEADER.size + _ROUTE.size:
            return None
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        return answer[_TYPE_AT] if kind == _NEW_ROUTE else None

else:

    def route_type(_address: Address) -> int | None:
        """Raises OSError: there is no netlink."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def can_be_bound(address: Address) -> bool:
    """Return whether a socket can be bound to `address`."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
