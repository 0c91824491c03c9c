"""Socket addresses as a hostile program gives them: whole, cut anywhere, with more behind."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net.sockaddr import (
    MAX_SOCKET_ADDRESS,
    BadSocketAddress,
    InternetAddress,
    OtherAddress,
    UnixPath,
    parse_socket_address,
)

IPV4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 443, bytes([192, 0, 2, 1]))
IPV6 = struct.pack("=H", socket.AF_INET6) + struct.pack(
    "!H4x16s4x", 443, IPv6Address("2001:db8::1").packed
)
UNIX = struct.pack("=H", socket.AF_UNIX)


def parse(data: bytes):
    return parse_socket_address(data, sys.byteorder)


def test_internet_addresses():
    assert parse(IPV4) == InternetAddress(IPv4Address("192.0.2.1"), 443)
    assert parse(IPV6) == InternetAddress(IPv6Address("2001:db8::1"), 443)


@pytest.mark.parametrize(("whole", "least"), [(IPV4, 16), (IPV6, 24)])
def test_every_length(whole, least):
    """The kernel takes less than the whole structure of IPv6, and more than the whole of either."""
    for length in range(least):
        with pytest.raises(BadSocketAddress):
            parse(whole[:length])
    for length in range(least, MAX_SOCKET_ADDRESS + 1):
        assert parse(whole.ljust(length, b"x")[:length]) == parse(whole)
    with pytest.raises(BadSocketAddress):
        parse(whole.ljust(MAX_SOCKET_ADDRESS + 1, b"x"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/run/a.sock", UnixPath(b"/run/a.sock")),
        (b"/run/a.sock\0", UnixPath(b"/run/a.sock")),
        (b"/run/a.sock\0/run/b.sock", UnixPath(b"/run/a.sock")),
        (b"a", UnixPath(b"a")),
        (b"\xff\x01", UnixPath(b"\xff\x01")),
        (b"x" * 108, UnixPath(b"x" * 108)),  # full, without an end: Linux takes it
        (b"\0", OtherAddress(socket.AF_UNIX)),
        (b"\0/run/a.sock", OtherAddress(socket.AF_UNIX)),
    ],
)
def test_unix_paths(path, expected):
    assert parse(UNIX + path) == expected


@pytest.mark.parametrize("path", [b"", b"x" * 109])
def test_unix_paths_that_are_none(path):
    with pytest.raises(BadSocketAddress):
        parse(UNIX + path)


@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_NETLINK, socket.AF_VSOCK, 0xFFFF])
def test_other_families(family):
    assert parse(struct.pack("=H", family) + bytes(14)) == OtherAddress(family)
    assert parse(struct.pack("=H", family)) == OtherAddress(family)


def test_the_machines_byte_order():
    assert parse_socket_address(b"\x00\x0a" + bytes(26), "big") == InternetAddress(
        IPv6Address("::"), 0
    )


@given(st.binary(max_size=140))
def test_nothing_else_is_raised(data):
    try:
        parsed = parse(data)
    except BadSocketAddress:
        return
    assert 2 <= len(data) <= MAX_SOCKET_ADDRESS
    if isinstance(parsed, UnixPath):
        assert parsed.path
        assert b"\0" not in parsed.path
