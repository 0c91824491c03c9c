"""Entries of --allow-domain, --deny-domain and --resolve: from a person's text to exact rules.

Rules of this file:
- An entry is HOST[:PORT], HOST:*, *.SUFFIX[:PORT], IPV4[:PORT] or [IPV6][:PORT]. Without a port an
  allow entry means 80 and 443, a deny entry every port.
- A scheme before an allow entry (tls:// or tcp://) relaxes the inspection of the bytes. A deny
  entry has no scheme: it denies every protocol. tls:// means port 443 unless the entry names
  another one; tcp:// needs a port.
- Every other text raises UsageError with the flag and the entry, because a rule must not silently
  mean something else.
- An entry for a host that no rule may open (metadata, link-local and the like) raises UsageError
  too, so that its user does not believe it to be open.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

import msgspec
from msgspec.structs import replace

from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import classify, is_loopback
from nono_trio.core.net.host import BadHost, Host, parse_rule_host
from nono_trio.core.policy.host_groups import GROUP_NAMES
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.net.address import Address

ALLOW_FLAG: Final = "--allow-domain"
DENY_FLAG: Final = "--deny-domain"
RESOLVE_FLAG: Final = "--resolve"
NO_INTERCEPT_FLAG: Final = "--no-intercept"

ANY_PORT: Final = 0  # not a port of its own: TCP reserves it
HTTP_PORT: Final = 80
TLS_PORT: Final = 443
WEB_PORTS: Final = (HTTP_PORT, TLS_PORT)
MAX_PORT: Final = 65535

# They and all names below them answer with credentials of the machine. The bare names resolve
# through the search domain of the cloud's DHCP.
METADATA_NAMES: Final = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
    }
)
LOCALHOST: Final = "localhost"

TLS_SCHEME: Final = "tls://"
TCP_SCHEME: Final = "tcp://"
MCP: Final = "mcp "  # after the action, in an entry of mcp_rule.py

_DEFAULT_PORTS: Final[dict[str, tuple[int, ...]]] = {
    "": WEB_PORTS,
    TLS_SCHEME: (TLS_PORT,),
    TCP_SCHEME: (),
}
_NO_URL = late_pattern(r"(?:tls|tcp|udp)://", re.IGNORECASE)
_SCHEME = late_pattern(r"(?:tls|tcp)://", re.IGNORECASE)
_URL_WITH_PATH = late_pattern(r"https?://[^/]*/.", re.IGNORECASE)
_ENTRY = late_pattern(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
_PORT = late_pattern(r"[1-9][0-9]{0,4}")
_PIN = late_pattern(r"([^:\[\]]+):([^:]*):(.+)", re.DOTALL)
_FORMS = "an entry is HOST[:PORT], HOST:*, *.SUFFIX[:PORT] or [IPV6]:PORT"


Spoken: TypeAlias = Literal["anything", "http", "tls"]


class Inspection(IntEnum):
    """The evidence that a connection must give of its host; a larger value requires less."""

    NAME = 0
    """The host's name: in the Host field on port 80, in the TLS hello on other ports."""
    TLS = 1
    """A TLS hello, which may hide or omit its name; a visible name must be the host's."""
    NONE = 2
    """Nothing: the bytes are passed on unchanged."""

    def spoken(self, port: int) -> Spoken:
        """Return the protocol that a connection to `port` must use."""
        if self is Inspection.TLS or (self is Inspection.NAME and port == TLS_PORT):
            return "tls"
        return "http" if self is Inspection.NAME and port == HTTP_PORT else "anything"


class Rule(msgspec.Struct, frozen=True):
    """One entry: `host` is the exact host, or the suffix when `wildcard` is set.

    `scheme` is TLS_SCHEME, TCP_SCHEME or "".
    """

    text: str
    host: Host
    wildcard: bool
    ports: tuple[int, ...]
    scheme: str = ""

    def inspection(self, port: int) -> Inspection:
        """Return the inspection of a connection to `port`."""
        if self.scheme == TLS_SCHEME:
            return Inspection.TLS
        if self.scheme == TCP_SCHEME or port not in WEB_PORTS:
            return Inspection.NONE
        return Inspection.NAME


class Pin(msgspec.Struct, frozen=True):
    """One --resolve entry: the only addresses that are dialled for a name and port."""

    host: Host
    port: int
    addresses: tuple[Address, ...]


def entry_scheme(text: str) -> str:
    """The scheme of an entry, in lower case; "" for an entry without one."""
    return _split_scheme(text)[0]


def has_path(text: str) -> bool:
    """Return True for an --allow-domain entry that is a URL with a path (endpoint_rule.py)."""
    return _URL_WITH_PATH.match(text) is not None


def is_localhost(name: str) -> bool:
    """True for `localhost` and every name below it."""
    return name == LOCALHOST or name.endswith(".localhost")


def leads_to_loopback(host: Host) -> bool:
    """True for a loopback address, for `localhost` and for every name below it."""
    return is_localhost(host.name) if host.address is None else is_loopback(host.address)


def is_metadata_name(name: str) -> bool:
    """True for a metadata service's name and every name below one."""
    return any(suffix in METADATA_NAMES for suffix in with_parents(name))


def with_parents(name: str) -> Iterator[str]:
    """The name, then what is left of it after each dot: a.b.c, b.c, c."""
    yield name
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)


def parse_allow(text: str) -> Rule:
    """Parse an --allow-domain entry. Raises UsageError, also for a host that no rule may open."""
    scheme, entry = _split_scheme(text)
    rule = _parse_entry(ALLOW_FLAG, text, entry, _DEFAULT_PORTS[scheme])
    if scheme:
        _check_scheme_port(text, scheme, entry, rule)
        rule = replace(rule, scheme=scheme)
    host = rule.host
    if is_metadata_name(host.name):
        _refuse_protected(ALLOW_FLAG, text, "a cloud metadata name")
    if host.address is not None and classify(host.address).is_never_allowed:
        _refuse_protected(ALLOW_FLAG, text, classify(host.address).words)
    if rule.wildcard and is_localhost(host.name):
        _refuse(ALLOW_FLAG, text, "got a wildcard over loopback names", "name each one exactly")
    return rule


def parse_deny(text: str) -> Rule:
    """Parse a --deny-domain entry. Raises UsageError."""
    scheme, entry = _split_scheme(text)
    if scheme:
        hint = f"write {entry}, which denies it whatever is spoken"
        _refuse(DENY_FLAG, text, f"expected a host without {scheme}", hint)
    return _parse_entry(DENY_FLAG, text, text, (ANY_PORT,))


def parse_pin(text: str) -> Pin:
    """Parse a --resolve entry, HOST:PORT:ADDR[,ADDR...]. Raises UsageError."""
    hint = "an entry is HOST:PORT:ADDR[,ADDR], as in api.example.com:443:127.0.0.1"
    match = _PIN.fullmatch(text)
    if match is None:
        _refuse(RESOLVE_FLAG, text, "expected HOST:PORT:ADDR", hint)
    host = _parse_host(RESOLVE_FLAG, text, match[1], hint)
    if host.address is not None:
        _refuse(RESOLVE_FLAG, text, "expected a name to pin, got an address", hint)
    port = _parse_port(RESOLVE_FLAG, text, match[2], hint)
    addresses = tuple(_parse_pinned(text, one, hint) for one in match[3].split(","))
    return Pin(host, port, addresses)


def _parse_pinned(text: str, address_text: str, hint: str) -> Address:
    host = _parse_host(RESOLVE_FLAG, text, address_text, hint)
    if host.address is None:
        _refuse(RESOLVE_FLAG, text, "expected an IP address behind the port", hint)
    if classify(host.address).is_never_allowed:
        _refuse_protected(RESOLVE_FLAG, text, classify(host.address).words)
    return host.address


def _split_scheme(text: str) -> tuple[str, str]:
    """Return the scheme in lower case ("" without one) and the rest."""
    match = _SCHEME.match(text)
    return ("", text) if match is None else (match[0].lower(), text[match.end() :])


def _check_scheme_port(text: str, scheme: str, entry: str, rule: Rule) -> None:
    if not rule.ports:
        hint = f"write the port that is meant, as in {scheme}{rule.host.bracketed()}:22, or :*"
        _refuse(ALLOW_FLAG, text, "expected a port, got none", hint)
    if scheme == TLS_SCHEME and ANY_PORT in rule.ports:
        hint = "name each port, or write tcp:// for whatever is spoken on any"
        _refuse(ALLOW_FLAG, text, "expected one port for TLS, got all", hint)
    if scheme == TLS_SCHEME and HTTP_PORT in rule.ports:
        hint = f"write {TCP_SCHEME}{entry} if it is not plain HTTP that is spoken there"
        _refuse(ALLOW_FLAG, text, f"expected a port for TLS, got {HTTP_PORT}", hint)


def _parse_entry(flag: str, text: str, entry: str, default_ports: tuple[int, ...]) -> Rule:
    """Parse `entry`, the part of `text` after the scheme."""
    if "/" in entry or "@" in entry:
        _refuse_mistaken(flag, text)
    host_text, port_text = _split(flag, text, entry)
    wildcard = host_text.startswith("*")
    if wildcard:
        host_text = _suffix(flag, text, host_text)
    host = _parse_host(flag, text, host_text, _FORMS)
    if wildcard and host.address is not None:
        _refuse(flag, text, "expected a name behind *., got an address", _FORMS)
    if port_text is None:
        _check_one_word(flag, text, host, wildcard)
        return Rule(text, host, wildcard, default_ports)
    ports = (ANY_PORT,) if port_text == "*" else (_parse_port(flag, text, port_text, _FORMS),)
    return Rule(text, host, wildcard, ports)


def _refuse_mistaken(flag: str, text: str) -> NoReturn:
    """Raise UsageError with a hint for URLs, ranges of addresses and names of users."""
    from nono_trio.core.policy.mistaken_hosts import meant_by  # late: for a mistake only

    meant = meant_by(text)
    if meant is None or _NO_URL.match(text):
        _refuse(flag, text, "expected a host, got a path", _FORMS)
    if meant.what == "a range":
        hint = f"write one entry for each address: {flag} {meant.host}"
        _refuse(flag, text, "expected one address, got a range", hint)
    hint = f"write the host and port: {flag} {meant.host}:{meant.port or 'PORT'}"
    _refuse(flag, text, f"expected a host, got {meant.what}", hint)


def _split(flag: str, text: str, entry: str) -> tuple[str, str | None]:
    if entry.count(":") > 1 and "[" not in entry:  # IPv6 without brackets can't have a port
        return entry, None
    match = _ENTRY.fullmatch(entry)
    if match is None:
        _refuse(flag, text, "expected a host and at most one port", _FORMS)
    return match[1], match[2]


def _suffix(flag: str, text: str, host_text: str) -> str:
    """Return the suffix after `*.`; a single label is allowed (*.internal), the root is not."""
    if host_text in ("*", "*."):
        _refuse(flag, text, "expected a suffix behind the *", _every_host_hint(flag))
    if not host_text.startswith("*."):
        _refuse(flag, text, "expected a dot behind the *", "*.example.com covers all below it")
    return host_text[2:]


def _every_host_hint(flag: str) -> str:
    if flag == DENY_FLAG:
        return "no network at all is --block-net"
    return "there is no entry for every host; name them, or a suffix as in *.example.com"


def _check_one_word(flag: str, text: str, host: Host, wildcard: bool) -> None:
    """Refuse a single word without a port: the user may have meant something else than a host."""
    if flag != ALLOW_FLAG or wildcard or host.address is not None or "." in host.name:
        return
    if host.name != LOCALHOST and host.name not in METADATA_NAMES:
        hint = (
            f"{_FORMS}; a one-word host needs its port, as in {host.name}:443; the groups of hosts"
            f" are {', '.join(GROUP_NAMES)}"
        )
        _refuse(flag, text, "expected a host name, got a single word", hint)


def _parse_host(flag: str, text: str, host_text: str, hint: str) -> Host:
    try:
        return parse_rule_host(host_text)
    except BadHost as fault:
        _refuse(flag, text, fault.reason, hint)


def _parse_port(flag: str, text: str, port_text: str, hint: str) -> int:
    if not _PORT.fullmatch(port_text) or int(port_text) > MAX_PORT:
        _refuse(flag, text, f"expected a port from 1 to {MAX_PORT}", hint)
    return int(port_text)


def _refuse(flag: str, text: str, reason: str, hint: str) -> NoReturn:
    raise UsageError(f"{flag} {text!a}: {reason}", hint=hint)


def _refuse_protected(flag: str, text: str, words: str) -> NoReturn:
    hint = "no flag opens it: a program that reaches it can act as this machine or as its network"
    _refuse(flag, text, f"it is {words}, which stays closed", hint)
