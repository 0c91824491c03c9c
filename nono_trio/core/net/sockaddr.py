"""Parses the socket address that a program has given to connect(2).

The numbers are those of Linux: unix(7), ip(7), ipv6(7). Rules of this file: bytes that the kernel
would refuse are refused here. A field that is not checked (flow label, scope) is dropped, so the
parsed address has everything that the connection is made with.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from nono_trio.core.net.address import Address

MAX_SOCKET_ADDRESS: Final = 128  # sizeof(struct sockaddr_storage); the kernel takes no more

UNIX: Final = 1
IPV4: Final = 2
IPV6: Final = 10

_FAMILY: Final = 2  # octets, in the machine's own order
_SIZES: Final = {
    UNIX: (_FAMILY + 1, 110),  # without a path the kernel can't connect
    IPV4: (16, MAX_SOCKET_ADDRESS),
    IPV6: (24, MAX_SOCKET_ADDRESS),  # RFC 2133's, which has no scope yet
}


class BadSocketAddress(Exception):
    """Bytes that are no socket address; the kernel answers them with EINVAL."""


class InternetAddress(msgspec.Struct, frozen=True):
    """An IP address and port."""

    address: Address
    port: int


class UnixPath(msgspec.Struct, frozen=True):
    """A socket in the file system; the path is unchanged, not resolved."""

    path: bytes


class OtherAddress(msgspec.Struct, frozen=True):
    """Any other family, and unix sockets without a path (abstract ones)."""

    family: int


SocketAddress = InternetAddress | UnixPath | OtherAddress


def parse_socket_address(data: bytes, byte_order: str) -> SocketAddress:
    """The address in `data`, which is exactly as long as the call said; `byte_order` is
    `sys.byteorder`. Raises BadSocketAddress."""
    if not _FAMILY <= len(data) <= MAX_SOCKET_ADDRESS:
        raise BadSocketAddress
    family = int.from_bytes(data[:_FAMILY], "little" if byte_order == "little" else "big")
    least, most = _SIZES.get(family, (_FAMILY, MAX_SOCKET_ADDRESS))
    if not least <= len(data) <= most:
        raise BadSocketAddress
    if family == IPV4:
        return InternetAddress(IPv4Address(data[4:8]), _port(data))
    if family == IPV6:
        return InternetAddress(IPv6Address(data[8:24]), _port(data))
    return _unix(data) if family == UNIX else OtherAddress(family)


def _port(data: bytes) -> int:
    return int.from_bytes(data[2:4], "big")


def _unix(data: bytes) -> SocketAddress:
    path = data[_FAMILY:].partition(b"\0")[0]
    return UnixPath(path) if path else OtherAddress(UNIX)
