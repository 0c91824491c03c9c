"""Addresses inside the cage's own network; no host outside ever sees them."""

from __future__ import annotations

# Both ends' addresses lie in the benchmark range (RFC 2544), above the part that names are given
# synthetic addresses from; the IPv6 ones are unique local and link local.
CHILD_IPV4 = "198.19.255.254"
GATEWAY_IPV4 = "198.19.255.253"
CHILD_IPV6 = "fd6e:6f6e:6f2d:ffff::2"
GATEWAY_IPV6 = "fe80::1"
DNS_PORT = 53
