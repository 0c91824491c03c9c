"""Addresses inside the cage's own network; they never leave it."""

from __future__ import annotations

# Both IPv4 addresses lie in the benchmark range (RFC 2544), above the fake addresses of names; the
# IPv6 addresses are unique local and link local.
CHILD_IPV4 = "198.19.255.254"
GATEWAY_IPV4 = "198.19.255.253"
CHILD_IPV6 = "fd6e:6f6e:6f2d:ffff::2"
GATEWAY_IPV6 = "fe80::1"
DNS_PORT = 53
