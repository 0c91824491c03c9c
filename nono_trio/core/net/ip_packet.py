"""Reads where an IP packet was to go: address, port and protocol. The packet may be cut.

The packets are the child's: any field may have any value. Extension headers of IPv6 are followed
as far as the bytes go, since a program without privileges can add two of them (a routing header, a
fragment).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

import msgspec

from nono_trio.core.net.endpoints import Endpoints

TCP: Final = "TCP"
_PROTOCOLS: Final = {6: TCP, 17: "UDP", 33: "DCCP", 132: "SCTP", 136: "UDP-Lite"}
_SOCKETS: Final[dict[int, Literal["tcp", "udp"]]] = {6: "tcp", 17: "udp"}
_IPV4_HEADER, _IPV6_HEADER, _FRAGMENT_HEADER = 20, 40, 8
_FRAGMENT: Final = 44
_EXTENSIONS: Final = frozenset({0, 43, 60})  # their second byte is their length
_FRAGMENT_OFFSET_V4, _FRAGMENT_OFFSET_V6 = 0x1FFF, 0xFFF8
_SHORT: Final = struct.Struct("!H")
_UNKNOWN: Final = "IP"


class _End(msgspec.Struct, frozen=True):
    """The place of one of the two ends of a packet in the headers. `port` counts from the beginning
    of the transport's header."""

    ipv4: slice
    ipv6: slice
    port: int


_SOURCE: Final = _End(slice(12, 16), slice(8, 24), 0)
_DESTINATION: Final = _End(slice(16, 20), slice(24, 40), 2)


class Attempt(msgspec.Struct, frozen=True):
    """One end of a packet; `port` is None if the packet is cut before it."""

    address: IPv4Address | IPv6Address
    port: int | None
    protocol: str

    @property
    def is_connection(self) -> bool:
        """Return True if it is TCP."""
        return self.protocol == TCP


def source(packet: bytes) -> Attempt | None:
    """Return where a packet comes from; as `destination`."""
    return _end(packet, _SOURCE)


def destination(packet: bytes) -> Attempt | None:
    """Return the destination of a packet that begins with its IP header.

    Returns None if it is no IP packet, or a later fragment: the first has the ports.
    """
    return _end(packet, _DESTINATION)


def _end(packet: bytes, end: _End) -> Attempt | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER:
        if _short(packet, 6) & _FRAGMENT_OFFSET_V4:
            return None
        protocol, behind = packet[9], (packet[0] & 15) * 4
        return _attempt(IPv4Address(packet[end.ipv4]), packet, protocol, behind + end.port)
    if version == 6 and len(packet) >= _IPV6_HEADER:
        return _behind_extensions(IPv6Address(packet[end.ipv6]), packet, end.port)
    return None


def ends(packet: bytes) -> Endpoints | None:
    """Return the two ends of a packet that `destination` has parsed; None if they are not those of
    a TCP or UDP socket. Extension headers are not followed."""
    is_new = packet[0] >> 4 == 6
    protocol, behind = (packet[6], 40) if is_new else (packet[9], (packet[0] & 15) * 4)
    name = _SOCKETS.get(protocol)
    if name is None or behind + 4 > len(packet):
        return None
    sender, receiver = (
        (IPv6Address(packet[8:24]), IPv6Address(packet[24:40]))
        if is_new
        else (IPv4Address(packet[12:16]), IPv4Address(packet[16:20]))
    )
    port, server_port = _short(packet, behind), _short(packet, behind + 2)
    return Endpoints(name, str(sender), port, str(receiver), server_port)


def _behind_extensions(address: IPv6Address, packet: bytes, offset: int) -> Attempt | None:
    header, place = packet[6], _IPV6_HEADER
    while header in _EXTENSIONS or header == _FRAGMENT:
        if place + _FRAGMENT_HEADER > len(packet):
            break
        if header == _FRAGMENT:
            if _short(packet, place + 2) & _FRAGMENT_OFFSET_V6:
                return None
            size = _FRAGMENT_HEADER
        else:
            size = (packet[place + 1] + 1) * 8
        header, place = packet[place], place + size
    return _attempt(address, packet, header, place + offset)


def _attempt(
    address: IPv4Address | IPv6Address, packet: bytes, protocol: int, place: int
) -> Attempt:
    port = _short(packet, place) if place + 2 <= len(packet) else None
    return Attempt(address, port, _PROTOCOLS.get(protocol, _UNKNOWN))


def _short(packet: bytes, place: int) -> int:
    found: int = _SHORT.unpack_from(packet, place)[0]
    return found
