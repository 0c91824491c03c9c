"""classify: what an address reaches, however it is spelled."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net.address import AddressClass, classify, is_loopback, parse_address, spellings

METADATA = "169.254.169.254"
THIS_NETWORK = IPv4Network("0.0.0.0/8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("93.184.215.14", AddressClass.PUBLIC),
        ("192.0.2.10", AddressClass.PUBLIC),  # documentation: nothing lives there
        ("2606:2800::1", AddressClass.PUBLIC),
        ("2001:db8::1", AddressClass.PUBLIC),
        ("9.255.255.255", AddressClass.PUBLIC),
        ("11.0.0.0", AddressClass.PUBLIC),
        ("172.15.255.255", AddressClass.PUBLIC),
        ("172.32.0.0", AddressClass.PUBLIC),
        ("100.63.255.255", AddressClass.PUBLIC),
        ("100.128.0.0", AddressClass.PUBLIC),
        ("10.0.0.1", AddressClass.PRIVATE),
        ("172.16.0.0", AddressClass.PRIVATE),
        ("172.31.255.255", AddressClass.PRIVATE),
        ("192.168.1.1", AddressClass.PRIVATE),
        ("100.64.0.1", AddressClass.PRIVATE),
        ("100.127.255.255", AddressClass.PRIVATE),
        ("198.18.0.1", AddressClass.PRIVATE),
        ("fd12:3456::1", AddressClass.PRIVATE),
        ("fc00::1", AddressClass.PRIVATE),
        ("fec0::1", AddressClass.PRIVATE),
        ("127.0.0.1", AddressClass.LOOPBACK),
        ("127.255.255.254", AddressClass.LOOPBACK),
        ("::1", AddressClass.LOOPBACK),
        ("240.0.0.1", AddressClass.RESERVED),
        ("192.0.0.8", AddressClass.RESERVED),
        ("100::1", AddressClass.RESERVED),
        ("4000::1", AddressClass.RESERVED),
        ("5f00::1", AddressClass.RESERVED),
        ("255.255.255.255", AddressClass.BROADCAST),
        ("224.0.0.1", AddressClass.MULTICAST),
        ("239.255.255.255", AddressClass.MULTICAST),
        ("ff02::1", AddressClass.MULTICAST),
        ("0.0.0.0", AddressClass.UNSPECIFIED),
        ("0.1.2.3", AddressClass.UNSPECIFIED),
        ("::", AddressClass.UNSPECIFIED),
        ("169.254.0.1", AddressClass.LINK_LOCAL),
        ("fe80::1", AddressClass.LINK_LOCAL),
        ("febf::1", AddressClass.LINK_LOCAL),
        (METADATA, AddressClass.METADATA),
        ("169.254.170.2", AddressClass.METADATA),
        ("100.100.100.200", AddressClass.METADATA),
        ("168.63.129.16", AddressClass.METADATA),
        ("192.0.0.192", AddressClass.METADATA),
        ("fd00:ec2::254", AddressClass.METADATA),
        ("fd00:ec2::23", AddressClass.METADATA),
        ("fd20:ce::254", AddressClass.METADATA),
        ("fe80::a9fe:a9fe", AddressClass.METADATA),
    ],
)
def test_class_of_plain_addresses(text, expected):
    assert classify(ip_address(text)) is expected


def wrapped(v4: str) -> dict[str, IPv6Address]:
    """Every IPv6 address that carries this IPv4 address, by the name of its format."""
    value = int(IPv4Address(v4))
    high, low = value >> 16, value & 0xFFFF
    octets = value.to_bytes(4, "big")
    local = bytes.fromhex("0064ff9b0001")
    return {
        "mapped": IPv6Address((0xFFFF << 32) | value),
        "compatible": IPv6Address(value),
        "translated": IPv6Address((0xFFFF << 48) | value),
        "nat64": IPv6Address(f"64:ff9b::{high:x}:{low:x}"),
        "nat64 local /96": IPv6Address(f"64:ff9b:1::{high:x}:{low:x}"),
        "nat64 local /48": IPv6Address(local + octets[:2] + b"\0" + octets[2:] + bytes(5)),
        "nat64 local /56": IPv6Address(local + b"\7" + octets[:1] + b"\0" + octets[1:] + bytes(4)),
        "nat64 local /64": IPv6Address(local + b"\7\7\0" + octets + bytes(3)),
        "6to4": IPv6Address(f"2002:{high:x}:{low:x}::1"),
        "teredo server": IPv6Address(f"2001:0:{high:x}:{low:x}:0:0:a4b4:4b4b"),
        "teredo client": IPv6Address(f"2001:0:5bc0:101:0:0:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"),
        "isatap": IPv6Address(f"2606:2800:0:1:0:5efe:{high:x}:{low:x}"),
        "isatap global": IPv6Address(f"2606:2800:0:1:200:5efe:{high:x}:{low:x}"),
    }


FORMATS = sorted(wrapped(METADATA))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("v4", [METADATA, "168.63.129.16", "100.100.100.200"])
def test_metadata_is_found_in_every_wrapping(form, v4):
    assert classify(wrapped(v4)[form]) is AddressClass.METADATA


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("v4", ["127.0.0.1", "10.0.0.1", "224.0.0.1", "169.254.7.7"])
def test_a_wrapping_never_makes_an_address_better(form, v4):
    assert classify(wrapped(v4)[form]) >= classify(IPv4Address(v4))


@pytest.mark.parametrize("form", ["mapped", "nat64", "6to4", "teredo server", "isatap"])
def test_a_wrapped_public_address_stays_public(form):
    assert classify(wrapped("93.184.215.14")[form]) is AddressClass.PUBLIC


def test_local_nat64_is_private_even_around_a_public_address():
    assert classify(wrapped("93.184.215.14")["nat64 local /96"]) is AddressClass.PRIVATE


@pytest.mark.parametrize("form", FORMATS)
def test_spellings_hold_the_wrapped_address(form):
    address = wrapped("93.184.215.14")[form]
    assert spellings(address)[0] == address
    assert IPv4Address("93.184.215.14") in spellings(address)


@given(st.ip_addresses(v=4), st.sampled_from(FORMATS))
def test_no_wrapping_hides_what_is_inside(v4, form):
    address = wrapped(str(v4))[form]
    if v4 not in THIS_NETWORK:  # there the bits are also the padding of another layout, or ::1
        assert classify(address) >= classify(v4)


@given(st.ip_addresses())
def test_every_address_has_a_class_and_words(address):
    assert classify(address).words.isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", IPv4Address("127.0.0.1")),
        ("fe80::1%eth0", IPv6Address("fe80::1")),
        ("allowed.test", None),
        ("", None),
        ("127.1", None),
    ],
)
def test_parse_address(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("::", False),
    ],
)
def test_only_what_leads_to_our_own_loopback_is_loopback(text, expected):
    assert is_loopback(ip_address(text)) is expected
