"""The names of the cage itself: its hosts file, and the value of NO_PROXY.

A name that the machine's hosts file puts at a loopback address means "this machine", and inside the
cage that is the cage. All other lines are left out. A program that looks up such a name asks the
supervisor, which decides, looks the name up in the same file and dials.

Rules of this file: it gets text and returns values; the caller limits the size of the file. A name
in a rule or a pin means the host's service, so it is not a name of the cage. The exceptions are
`localhost` and the machine's own name, which programs bind. A name that `parse_host` refuses is
left out.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import is_loopback, parse_address
from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.rule import LOCALHOST

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Sequence

    from nono_trio.core.net.address import Address

LOOPBACK_IPV4: Final = IPv4Address("127.0.0.1")
LOOPBACK_IPV6: Final = IPv6Address("::1")

# Names taken from a hosts file. A block list may have 200,000 at 127.0.0.1. The supervisor answers
# for the names beyond this limit, and denies those that no rule names.
MAX_NAMES: Final = 4096
# Bytes of NO_PROXY that come from a hosts file. Programs read the variable at every request. The
# kernel counts it, once in each spelling, as a part of the command's arguments.
MAX_NO_PROXY: Final = 4096

# The names that Linux distributions give ::1 besides `localhost`.
_IPV6_NAMES: Final = ("ip6-localhost", "ip6-loopback")
# The beginning of a line with a loopback address, in the spellings of hosts files.
_LOOPBACK_LINE: Final = late_pattern(r"^[ \t]*(?:127\.|::1[ \t]|::ffff:127\.|0:0:).*$", re.M | re.I)
# The addresses of a program's own server, in the spellings that programs use. Only some clients
# understand a range, so two single addresses are listed as well: Debian's for the machine's name,
# and the second one that tests often use.
_RANGE: Final = "127.0.0.0/8"
_ADDRESSES: Final = (
    "127.0.0.1", "::1", "0.0.0.0", "127.0.1.1", "127.0.0.2", _RANGE,
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::",
)  # fmt: skip


class OwnNames(msgspec.Struct, frozen=True):
    """The cage's own names, each line as (address, names), in the order of a hosts file.

    `left_out` is the number of names of the machine's file beyond the limit.
    """

    lines: tuple[tuple[Address, tuple[str, ...]], ...]
    left_out: int = 0

    @property
    def text(self) -> str:
        """The lines as a hosts file."""
        return "".join(f"{address}\t{' '.join(names)}\n" for address, names in self.lines)

    @property
    def addresses(self) -> dict[str, tuple[Address, ...]]:
        """The addresses of each name, in lower case."""
        found: dict[str, tuple[Address, ...]] = {}
        for address, names in self.lines:
            for name in map(str.lower, names):
                found[name] = (*found.get(name, ()), address)
        return found


def names_of_the_cage(hosts_file: str, own_name: str, elsewhere: Container[str]) -> OwnNames:
    """Return the names of a cage that has a network of its own.

    `elsewhere` has the canonical names in rules and pins. `own_name` is the machine's name.
    """
    kept = frozenset({LOCALHOST, own_name.lower()})
    lines, left_out = _loopback_lines(hosts_file, elsewhere, kept)
    known = {name.lower() for _, names in lines for name in names}
    first: list[tuple[Address, tuple[str, ...]]] = []
    if LOCALHOST not in known:
        first += [(LOOPBACK_IPV4, (LOCALHOST,)), (LOOPBACK_IPV6, (LOCALHOST,))]
    if known.isdisjoint(_IPV6_NAMES):
        first.append((LOOPBACK_IPV6, _IPV6_NAMES))
    if own_name.lower() not in known and _is_name(own_name):
        first.append((LOOPBACK_IPV4, _own_line(hosts_file, own_name, elsewhere)))
    return OwnNames((*first, *lines), left_out)


def names_of_the_machine(hosts_file: str, elsewhere: Container[str]) -> OwnNames:
    """Return the names of the machine, for a cage that reads the machine's own hosts file."""
    return OwnNames(*_loopback_lines(hosts_file, elsewhere, frozenset()))


def no_proxy(own: OwnNames, elsewhere: Collection[str]) -> tuple[str, int]:
    """Return the value of NO_PROXY, and the number of names that did not fit in it.

    A name in a rule or a pin (`elsewhere`) means a service of the host, so it goes through the
    proxy.
    """
    entries = [entry for entry in (LOCALHOST, *_ADDRESSES) if entry not in elsewhere]
    if any(map(_in_range, elsewhere)):
        entries.remove(_RANGE)
    room, missing = MAX_NO_PROXY, 0
    for name in own.addresses:
        if name in entries or name in elsewhere:
            continue
        room -= len(name) + 1
        if room < 0:
            missing += 1
        else:
            entries.append(name)
    return ",".join(entries), missing + own.left_out


def _in_range(host: str) -> bool:
    address = parse_address(host)
    return isinstance(address, IPv4Address) and is_loopback(address)


def _loopback_lines(
    text: str, elsewhere: Container[str], kept: Container[str]
) -> tuple[tuple[tuple[Address, tuple[str, ...]], ...], int]:
    """The lines at loopback addresses, and the number of names on such lines beyond the limit."""
    lines: list[tuple[Address, tuple[str, ...]]] = []
    room, left_out = MAX_NAMES, 0
    for address, names in _entries(_LOOPBACK_LINE.findall(text)):
        if not is_loopback(address):
            continue
        if room <= 0:
            left_out += len(names)
            continue
        wanted = tuple(
            name
            for name in names
            if (name.lower() in kept or name.lower() not in elsewhere) and _is_name(name)
        )
        room -= len(wanted)
        if wanted:
            lines.append((address, wanted))
    return tuple(lines), left_out


def _own_line(text: str, own_name: str, elsewhere: Container[str]) -> tuple[str, ...]:
    """The machine's own name with the others of its line, the full name first."""
    lines = [line for line in text.splitlines() if own_name.lower() in line.lower()]
    for _, names in _entries(lines):
        if own_name.lower() in map(str.lower, names):
            return tuple(
                name
                for name in names
                if name.lower() == own_name.lower()
                or (name.lower() not in elsewhere and _is_name(name))
            )
    return (own_name,)


def _entries(lines: Sequence[str]) -> Iterator[tuple[Address, list[str]]]:
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        parsed = parse_address(address)
        if isinstance(parsed, IPv6Address):  # mapped: the C library reads the IPv4 address
            parsed = parsed.ipv4_mapped or parsed
        if parsed is not None and names:
            yield parsed, names


def _is_name(text: str) -> bool:
    try:
        return parse_host(text).address is None
    except BadHost:
        return False
