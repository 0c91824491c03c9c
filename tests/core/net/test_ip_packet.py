"""The destination of a packet of the cage, whatever its headers hold."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net.ip_packet import Attempt, destination

PORTS = struct.pack("!2H", 40000, 123)
DATAGRAM = struct.pack("!4H", 40000, 123, 9, 0) + b"x"
FOURTH, SIXTH = ip_address("192.0.2.1"), ip_address("2001:db8::1")


def ipv4(rest: bytes, *, protocol: int = 17, options: bytes = b"", fragment: int = 0) -> bytes:
    length = (20 + len(options)) // 4
    head = struct.pack("!2B3H2BH", 0x40 | length, 0, 0, 0, fragment, 64, protocol, 0)
    return head + bytes(4) + FOURTH.packed + options + rest


def ipv6(rest: bytes, *, protocol: int = 17) -> bytes:
    return struct.pack("!IHBB", 6 << 28, 0, protocol, 64) + bytes(16) + SIXTH.packed + rest


def fragment(rest: bytes, *, protocol: int = 17, offset: int = 0) -> bytes:
    return struct.pack("!2BHI", protocol, 0, offset, 7) + rest


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (ipv4(DATAGRAM), (FOURTH, 123, "UDP")),
        (ipv4(PORTS, protocol=6), (FOURTH, 123, "TCP")),
        (ipv4(PORTS, options=b"\x01" * 40), (FOURTH, 123, "UDP")),
        (ipv4(PORTS, protocol=136), (FOURTH, 123, "UDP-Lite")),
        (ipv4(PORTS, fragment=0x2000), (FOURTH, 123, "UDP")),
        (ipv4(PORTS, fragment=0x2001), None),
        (ipv4(PORTS[:3]), (FOURTH, None, "UDP")),
        (ipv4(PORTS)[:19], None),
        (ipv6(DATAGRAM), (SIXTH, 123, "UDP")),
        (ipv6(PORTS, protocol=6), (SIXTH, 123, "TCP")),
        (ipv6(fragment(PORTS), protocol=44), (SIXTH, 123, "UDP")),
        (ipv6(fragment(PORTS, offset=8), protocol=44), None),
        # A routing header of 24 bytes, and a fragment behind it.
        (ipv6(b"\x2c\x02" + bytes(22) + fragment(PORTS), protocol=43), (SIXTH, 123, "UDP")),
        (ipv6(b"\x11\xff" + bytes(80), protocol=43), (SIXTH, None, "UDP")),  # cut before its end
        (ipv6(b"\x11", protocol=43), (SIXTH, None, "IP")),
        (ipv6(DATAGRAM)[:39], None),
        (b"", None),
        (bytes(64), None),
    ],
)
def test_destination(packet: bytes, found: tuple[object, ...] | None) -> None:
    assert destination(packet) == (None if found is None else Attempt(*found))  # type: ignore[arg-type]


@given(st.sampled_from([0x45, 0x4F, 0x40, 0x60]), st.binary(max_size=128))
def test_any_bytes_are_read(first: int, rest: bytes) -> None:
    found = destination(bytes([first]) + rest)
    assert found is None or found.port is None or 0 <= found.port < 1 << 16
