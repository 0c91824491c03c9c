"""The names that mean the cage itself: its own hosts file, and what programs reach without a proxy.

A name that the machine's hosts file puts at a loopback address means "this machine", and inside the
cage that is the cage. All other lines are left out: the cage has none of those addresses, so the
supervisor is asked for the name, which it decides, looks up in the same file and dials.

Rules of this file: text in, values out; whoever reads the file bounds its size. A name that a rule
or a pin names exactly is the user's wish to reach the host's service, so it is none of the cage's,
but for `localhost` and the machine's own name, which programs bind. A name that `parse_host`
does not take is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.address import parse_address
from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.rule import LOCALHOST

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Sequence

    from nono_trio.core.net.address import Address

LOOPBACK_IPV4: Final = IPv4Address("127.0.0.1")
LOOPBACK_IPV6: Final = IPv6Address("::1")

# Names taken from a hosts file. A block list may have 200,000 at 127.0.0.1: those that find no room
# are the supervisor's to answer, which denies what no rule names.
MAX_NAMES: Final = 4096
# Bytes of NO_PROXY that come from a hosts file. Programs read the variable at every request, and
# the kernel counts it, once in each spelling, as a part of the command's arguments.
MAX_NO_PROXY: Final = 4096

# As Linux distributions name ::1 beside `localhost`.
_IPV6_NAMES: Final = ("ip6-localhost", "ip6-loopback")
# What starts a line at a loopback address, in the spellings that hosts files have.
_LOOPBACK_LINE: Final = re.compile(r"^[ \t]*(?:127\.|::1[ \t]|::ffff:127\.|0:0:).*$", re.M | re.I)
# A program's own server by its address, in the spellings that programs ask for. A range is
# understood by some clients only, so single addresses that are in use stand beside it: Debian's for
# the machine's name, and the one that tests take when they need a second.
_RANGE: Final = "127.0.0.0/8"
_ADDRESSES: Final = (
    "127.0.0.1", "::1", "0.0.0.0", "127.0.1.1", "127.0.0.2", _RANGE,
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::",
)  # fmt: skip


@dataclass(frozen=True)
class OwnNames:
    """The cage's own names, each line as (address, names), in the order of a hosts file.

    `left_out` is how many names of the machine's file found no room.
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
    """What a cage with a network of its own has for a hosts file.

    `elsewhere` are the canonical names that rules or pins name. `own_name` is the machine's.
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
    """What means the machine itself where the cage sees the machine's own hosts file."""
    return OwnNames(*_loopback_lines(hosts_file, elsewhere, frozenset()))


def no_proxy(own: OwnNames, elsewhere: Collection[str]) -> tuple[str, int]:
    """The value of NO_PROXY: what programs in the cage reach without the proxy; and how many names
    found no room.

    What a rule or a pin names (`elsewhere`) is the host's and goes through the proxy.
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
    return isinstance(address, IPv4Address) and address.is_loopback


def _loopback_lines(
    text: str, elsewhere: Container[str], kept: Container[str]
) -> tuple[tuple[tuple[Address, tuple[str, ...]], ...], int]:
    """The lines at loopback addresses, and how many names of such lines found no room."""
    lines: list[tuple[Address, tuple[str, ...]]] = []
    room, left_out = MAX_NAMES, 0
    for address, names in _entries(_LOOPBACK_LINE.findall(text)):
        if not address.is_loopback:
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
    """The machine's own name with the others of its line, the first of which is the full one."""
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
