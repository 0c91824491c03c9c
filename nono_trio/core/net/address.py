"""IP addresses by what they reach, including IPv6 addresses with an IPv4 address embedded.

Rules of this file:
- Explicit networks only. The flags of `ipaddress` differ between Python versions and call NAT64,
  6to4 and IPv4-compatible metadata addresses global, mapped loopback not loopback.
- The class of an address is the worst of its own and those of the addresses embedded in it.
- Documentation ranges (192.0.2.0/24, 2001:db8::/32 ...) count as public: no host has one.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

ADDRESS_CACHE = 4096  # distinct resolved addresses kept with their class; about 0.5 KiB each


class AddressClass(IntEnum):
    """Class of the addresses, by what they reach. The worst of several classes is their maximum."""

    PUBLIC = 0
    PRIVATE = 1  # RFC 1918, ULA, shared address space, benchmarking, local NAT64
    LOOPBACK = 2
    RESERVED = 3
    BROADCAST = 4
    MULTICAST = 5
    UNSPECIFIED = 6  # connects to this very host on Linux
    LINK_LOCAL = 7
    METADATA = 8  # hands out credentials of the machine

    @property
    def is_never_allowed(self) -> bool:
        """True if no rule and no pin can allow it."""
        return self >= AddressClass.RESERVED

    @property
    def words(self) -> str:
        """The class as the end of a sentence that begins with "the address is"."""
        return _WORDS[self]


_WORDS = {
    AddressClass.PUBLIC: "a public address",
    AddressClass.PRIVATE: "in a private range",
    AddressClass.LOOPBACK: "a loopback address",
    AddressClass.RESERVED: "a reserved address",
    AddressClass.BROADCAST: "the broadcast address",
    AddressClass.MULTICAST: "a multicast address",
    AddressClass.UNSPECIFIED: "the unspecified address",
    AddressClass.LINK_LOCAL: "a link-local address",
    AddressClass.METADATA: "a cloud metadata address",
}

# The first match counts, so single addresses come before the ranges around them.
_V4_CLASSES = tuple(
    (IPv4Network(network), address_class)
    for network, address_class in (
        ("169.254.169.254/32", AddressClass.METADATA),  # most clouds
        ("169.254.170.2/32", AddressClass.METADATA),  # AWS container credentials
        ("169.254.170.23/32", AddressClass.METADATA),  # AWS pod identity
        ("169.254.0.23/32", AddressClass.METADATA),  # Tencent
        ("169.254.42.42/32", AddressClass.METADATA),  # Scaleway
        ("100.100.100.200/32", AddressClass.METADATA),  # Alibaba, inside shared address space
        ("168.63.129.16/32", AddressClass.METADATA),  # Azure wire server, a public address
        ("192.0.0.192/32", AddressClass.METADATA),  # Oracle, classic
        ("0.0.0.0/8", AddressClass.UNSPECIFIED),
        ("127.0.0.0/8", AddressClass.LOOPBACK),
        ("169.254.0.0/16", AddressClass.LINK_LOCAL),
        ("10.0.0.0/8", AddressClass.PRIVATE),
        ("172.16.0.0/12", AddressClass.PRIVATE),
        ("192.168.0.0/16", AddressClass.PRIVATE),
        ("100.64.0.0/10", AddressClass.PRIVATE),  # RFC 6598, neither private nor global by flag
        ("198.18.0.0/15", AddressClass.PRIVATE),  # benchmarking; fake-DNS VPNs answer from it
        ("192.0.0.0/24", AddressClass.RESERVED),
        ("192.88.99.0/24", AddressClass.RESERVED),  # 6to4 relays, withdrawn by RFC 7526
        ("224.0.0.0/4", AddressClass.MULTICAST),
        ("255.255.255.255/32", AddressClass.BROADCAST),
        ("240.0.0.0/4", AddressClass.RESERVED),
    )
)
_V6_CLASSES = tuple(
    (IPv6Network(network), address_class)
    for network, address_class in (
        ("fd00:ec2::/32", AddressClass.METADATA),  # AWS: ::254 metadata, ::23 pod identity
        ("fd20:ce::254/128", AddressClass.METADATA),  # Google
        ("fd00:c1::a9fe:a9fe/128", AddressClass.METADATA),  # Oracle
        ("fd00:42::42/128", AddressClass.METADATA),  # Scaleway
        ("fe80::a9fe:a9fe/128", AddressClass.METADATA),  # OpenStack
        ("::/128", AddressClass.UNSPECIFIED),
        ("::1/128", AddressClass.LOOPBACK),
        ("fe80::/10", AddressClass.LINK_LOCAL),
        ("fec0::/10", AddressClass.PRIVATE),  # site-local, the ULA of before RFC 3879
        ("fc00::/7", AddressClass.PRIVATE),
        ("ff00::/8", AddressClass.MULTICAST),
        ("2001:2::/48", AddressClass.PRIVATE),  # benchmarking
        ("64:ff9b:1::/48", AddressClass.PRIVATE),  # RFC 8215, translation inside one network
        ("64:ff9b::/96", AddressClass.PUBLIC),  # RFC 6052: the embedded address decides
        ("::ffff:0:0/96", AddressClass.PUBLIC),  # mapped: the embedded address decides
        ("2000::/3", AddressClass.PUBLIC),  # all that IANA has given out as global unicast
    )
)

_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214 6.1: upper half of the interface identifier
_LOW = 0xFFFFFFFF


@lru_cache(maxsize=ADDRESS_CACHE)
def classify(address: Address) -> AddressClass:
    """Class of an address: the worst of its own and those of the addresses inside it."""
    return max(_own_class(one) for one in spellings(address))


def is_loopback(address: Address) -> bool:
    """Return True if an address leads to the loopback of the machine that dials it.

    So does an IPv4-mapped address. A translator's or a tunnel's (`classify`) leads elsewhere first.
    """
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return _own_class(address) is AddressClass.LOOPBACK


def spellings(address: Address) -> tuple[Address, ...]:
    """The address itself, then every IPv4 address that a translator or tunnel extracts from it."""
    if isinstance(address, IPv4Address):
        return (address,)
    return (address, *map(IPv4Address, _embedded(address)))


def parse_address(text: str) -> Address | None:
    """Address from a resolver's text, a zone id cut off; None when it is not an address."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _own_class(address: Address) -> AddressClass:
    if isinstance(address, IPv4Address):
        return _look_up_v4(address)
    return _look_up_v6(address)


def _look_up_v4(address: IPv4Address) -> AddressClass:
    for network, address_class in _V4_CLASSES:
        if address in network:
            return address_class
    return AddressClass.PUBLIC


def _look_up_v6(address: IPv6Address) -> AddressClass:
    for network, address_class in _V6_CLASSES:
        if address in network:
            return address_class
    return AddressClass.RESERVED  # unallocated by IANA


def _embedded(address: IPv6Address) -> list[int]:
    value = int(address)
    found = []
    if value > 1 and any(address in network for network in (_MAPPED, _COMPATIBLE, _TRANSLATED)):
        found.append(value & _LOW)
    if address in _NAT64:
        found.append(value & _LOW)
    if address in _NAT64_LOCAL:
        found.extend(_local_nat64(address))
    if address in _SIX_TO_FOUR:
        found.append((value >> 80) & _LOW)
    if address in _TEREDO:  # RFC 4380 4: the server, and the client with its bits inverted
        found.extend(((value >> 64) & _LOW, ~value & _LOW))
    if (value >> 32) & _LOW in _ISATAP:
        found.append(value & _LOW)
    return found


def _local_nat64(address: IPv6Address) -> list[int]:
    """The embedded address in every layout of RFC 6052 2.2: the operator chooses the prefix length.

    An address in 0.0.0.0/8 is the padding of another layout, so only the last layout may give one.
    """
    octets = address.packed[:8] + address.packed[9:]  # octet 8 is always zero and carries nothing
    readings = [int.from_bytes(octets[at : at + 4], "big") for at in (6, 7, 8)]
    return [one for one in readings if one >> 24] + [int(address) & _LOW]
