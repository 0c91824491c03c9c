"""Host names and IP literals: the one place that says which spellings exist.

Rules of this file:
- One host has one spelling. Names are lower-case A-labels without the root dot; addresses are the
  text of `ipaddress`. Policy, audit and dialler all see this spelling and no other.
- What another parser could read differently is refused, never repaired: short, octal, hexadecimal
  and integer IPv4, zone ids, percent signs, anything outside ASCII. `getaddrinfo` would take many
  of them (127.1, 0x7f000001, full-width digits, everything before a NUL).
- Requests carry ASCII only. IDNA is applied to rules alone, where a person typed the name.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import msgspec

from nono_trio.core.late import late_pattern

MAX_NAME = 253  # RFC 1035 2.3.4: 255 octets on the wire, less the first length and the root
HOST_CACHE = 4096  # spellings kept; at most about 300 bytes each, so 1 MiB in the worst case

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = late_pattern(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_IPV6 = late_pattern(r"[0-9A-Fa-f:.]{2,45}")  # no zone id: "%" is not among them
# Underscores are not in RFC 1123 host names, yet real ones have them (_dmarc, object stores).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = late_pattern(rf"{_LABEL}(?:\.{_LABEL})*")
# The WHATWG URL rule "ends in a number": inet_aton would read such a name as an IPv4 address.
_NUMERIC = late_pattern(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


class BadHost(Exception):
    """A host that has no safe reading; `reason` is printable ASCII and quotes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Host(msgspec.Struct, frozen=True):
    """A canonical host: `name` is its only spelling, `address` is set for IP literals."""

    name: str
    address: IPv4Address | IPv6Address | None = None

    def bracketed(self) -> str:
        """The spelling inside an authority: IPv6 in brackets (RFC 3986 3.2.2)."""
        return f"[{self.name}]" if isinstance(self.address, IPv6Address) else self.name


@lru_cache(maxsize=HOST_CACHE)
def parse_host(text: str) -> Host:
    """Parse a name, an IPv4 literal or an IPv6 literal (brackets optional), ASCII only.

    One trailing dot of a name is taken off (the root label: same host, other spelling); two are
    refused, and so is one after an IPv4 literal. Raises BadHost. Idempotent over `Host.name`.
    """
    if not text.isascii():
        raise BadHost("the host has characters outside ASCII")
    if ":" in text or text.startswith("["):
        return _ipv6_host(text)
    name = text.lower()
    if _IPV4.fullmatch(name):
        return Host(name, IPv4Address(name))
    name = name.removesuffix(".")
    _check_name(name)
    return Host(name)


def parse_rule_host(text: str) -> Host:
    """Parse a host that a person wrote in a rule: as `parse_host`, and U-labels become A-labels.

    UTS 46 processing, non-transitional, as browsers do: the German sharp s keeps its own label.
    Raises BadHost.
    """
    if text.isascii():
        return parse_host(text)
    host = parse_host(_to_a_labels(text))
    if host.address is not None:  # full-width digits map to ASCII ones: not what was meant
        raise BadHost("the host is an IP address in characters outside ASCII")
    return host


def _to_a_labels(text: str) -> str:
    if len(text) > MAX_NAME:
        raise BadHost(f"the host is longer than {MAX_NAME} characters")
    import idna  # late: its tables cost milliseconds, and few rules need them

    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
    except UnicodeError:
        raise BadHost("the host is not a valid internationalised name") from None


def _ipv6_host(text: str) -> Host:
    if text.startswith("["):
        if not text.endswith("]"):
            raise BadHost("the IPv6 literal has unbalanced brackets")
        text = text[1:-1]
    if not _IPV6.fullmatch(text):
        raise BadHost("the host has a colon and is no IPv6 address")
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise BadHost("the host has a colon and is no IPv6 address") from None
    return Host(str(address), address)


def _check_name(name: str) -> None:
    if not name:
        raise BadHost("the host is empty")
    if len(name) > MAX_NAME:
        raise BadHost(f"the host is longer than {MAX_NAME} characters")
    if not _NAME.fullmatch(name):
        raise BadHost("the host is not a name of letters, digits, hyphens and dots")
    if _NUMERIC.fullmatch(name):
        raise BadHost("the host is a number but not a plain dotted IPv4 address")
    if "xn--" in name:
        for label in name.split("."):
            _check_a_label(label)


def _check_a_label(label: str) -> None:
    """Refuse an A-label that says nothing: resolvers differ on it, so it must not reach one."""
    if not label.startswith("xn--"):
        return
    try:
        label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        raise BadHost("the host has a broken xn-- label") from None
