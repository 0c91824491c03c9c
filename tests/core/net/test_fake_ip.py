"""The table of names and the addresses that stand for them."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.net.fake_ip import (
    EVERY_PORT_NETWORKS,
    MAX_EVERY_PORT_NAMES,
    MAX_NAMES,
    FakeAddresses,
)
from nono_trio.sandbox.launcher import addresses

IPV4, IPV6 = IPv4Network("198.18.0.0/15"), IPv6Network("fd6e:6f6e:6f2d::/64")


def both(names: FakeAddresses, name: str) -> tuple[IPv4Address, IPv6Address]:
    found = names.addresses_of(name)
    assert found is not None
    return found


@given(st.lists(st.text("abc.", min_size=1, max_size=6), max_size=30))
def test_each_name_keeps_its_own_addresses(asked):
    names = FakeAddresses()
    first = {name: both(names, name) for name in asked}
    assert {name: both(names, name) for name in asked} == first
    assert len(names) == len(set(asked))
    for name, found in first.items():
        assert [names.name_of(address) for address in found] == [name, name]
    handed_out = [address for found in first.values() for address in found]
    assert len(set(handed_out)) == len(handed_out)


def test_a_full_table_refuses_new_names_and_keeps_the_old():
    names = FakeAddresses(limit=2)
    one, two = both(names, "one.test"), both(names, "two.test")
    assert names.addresses_of("three.test") is None
    assert (both(names, "one.test"), both(names, "two.test")) == (one, two)
    assert names.name_of(IPv4Address(int(two[0]) + 1)) is None


def test_names_of_every_port_have_networks_of_their_own():
    names = FakeAddresses(has_every_port=lambda name: name.startswith("every"))
    networks = [ip_network(one) for one in EVERY_PORT_NETWORKS]
    link = {ip_address(one) for one in (addresses.CHILD_IPV4, addresses.GATEWAY_IPV4)}
    for number in range(MAX_EVERY_PORT_NAMES):
        found = both(names, f"every{number}")
        assert all(one in network for one, network in zip(found, networks, strict=True))
        assert not link & {*found}
        assert [names.name_of(one) for one in found] == [f"every{number}"] * 2
    assert names.addresses_of("every other") is None
    for number in range(MAX_NAMES):
        found = both(names, str(number))
        assert not any(one in network for one, network in zip(found, networks, strict=True))
    assert names.addresses_of("one more") is None


def test_all_addresses_lie_in_our_ranges_and_none_is_the_cages_link():
    names = FakeAddresses()
    handed_out = set()
    for number in range(MAX_NAMES):
        ipv4, ipv6 = both(names, str(number))
        assert ipv4 in IPV4
        assert ipv6 in IPV6
        handed_out |= {ipv4, ipv6}
    assert names.addresses_of("one more") is None
    assert len(handed_out) == 2 * MAX_NAMES
    link = {
        ip_address(one)
        for one in (
            addresses.CHILD_IPV4,
            addresses.GATEWAY_IPV4,
            addresses.CHILD_IPV6,
            addresses.GATEWAY_IPV6,
        )
    }
    assert not handed_out & link


@pytest.mark.parametrize(
    "address",
    ["198.18.0.0", "198.18.0.2", "192.0.2.1", "0.0.0.0", "255.255.255.255", "::", "::1",
     "fd6e:6f6e:6f2d::", "fd6e:6f6e:6f2d::2", "::ffff:198.18.0.1", "::c612:1"],
)  # fmt: skip
def test_an_address_that_was_never_handed_out_has_no_name(address):
    names = FakeAddresses()
    both(names, "one.test")
    assert names.name_of(ip_address(address)) is None
