"""Entries of --allow-domain, --deny-domain and --resolve: from a person's text to exact rules.

Rules of this file:
- An entry is HOST[:PORT], HOST:*, *.SUFFIX[:PORT], IPV4[:PORT] or [IPV6][:PORT]. Without a port an
  allow entry means 80 and 443, a deny entry every port.
- Everything else is a UsageError that names the flag and the entry: a rule that silently means
  something else is worse than none.
- What no rule may open (metadata, link-local and the like) is refused here already, so that
  nobody believes it to be open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from nono_trio.core.addresses import classify
from nono_trio.core.groups import GROUP_NAMES
from nono_trio.core.hosts import BadHost, Host, parse_rule_host
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.addresses import Address

ALLOW_FLAG: Final = "--allow-domain"
DENY_FLAG: Final = "--deny-domain"
RESOLVE_FLAG: Final = "--resolve"

ANY_PORT: Final = 0  # not a port of its own: TCP reserves it
WEB_PORTS: Final = (80, 443)
MAX_PORT: Final = 65535

# They and all names below them answer with credentials of the machine. Bare ones resolve through
# the search domain of the cloud's own DHCP.
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

_ENTRY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PIN = re.compile(r"([^:\[\]]+):([^:]*):(.+)", re.DOTALL)
_FORMS = "an entry is HOST[:PORT], HOST:*, *.SUFFIX[:PORT] or [IPV6]:PORT"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry: `host` is the exact host, or the suffix when `wildcard` is set."""

    text: str
    host: Host
    wildcard: bool
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """One --resolve entry: the only addresses that a name and port are dialled at."""

    host: Host
    port: int
    addresses: tuple[Address, ...]


def is_localhost(name: str) -> bool:
    """True for `localhost` and every name below it."""
    return name == LOCALHOST or name.endswith(".localhost")


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
    """Parse an --allow-domain entry. Raises UsageError, also for what nothing may open."""
    rule = _parse_entry(ALLOW_FLAG, text, WEB_PORTS)
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
    return _parse_entry(DENY_FLAG, text, (ANY_PORT,))


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


def _parse_entry(flag: str, text: str, default_ports: tuple[int, ...]) -> Rule:
    if "/" in text:
        _refuse(flag, text, "expected a host, got a URL or path", _FORMS)
    host_text, port_text = _split(flag, text)
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


def _split(flag: str, text: str) -> tuple[str, str | None]:
    if text.count(":") > 1 and "[" not in text:  # IPv6 without brackets has no room for a port
        return text, None
    match = _ENTRY.fullmatch(text)
    if match is None:
        _refuse(flag, text, "expected a host and at most one port", _FORMS)
    return match[1], match[2]


def _suffix(flag: str, text: str, host_text: str) -> str:
    """What stands behind `*.`; a single label is fine (*.internal), the root is not."""
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
    """A single word without a port is no host to go by: it may be meant as something else."""
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
    hint = "no flag opens it: whoever reaches it can act as this machine or as its network"
    _refuse(flag, text, f"it is {words}, which stays closed", hint)
