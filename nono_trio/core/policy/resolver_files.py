"""Parsers for the two files of a system's look-ups: /etc/hosts and /etc/resolv.conf.

Rules of this file: it gets text and returns values; the caller limits the size of the files. A line
that is not understood is skipped, like hosts(5) and resolv.conf(5) readers do. Names are compared
in lower case without the root dot, and `parse_host` accepts every name that is returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.net.address import parse_address
from nono_trio.core.net.host import MAX_NAME, BadHost, parse_host
from nono_trio.core.policy.rule import is_localhost

if TYPE_CHECKING:
    from collections.abc import Sequence

# glibc before 2.26 took 6 search domains, newer ones take any number; each costs a query.
MAX_SEARCH_DOMAINS: Final = 6
MAX_HOSTS_FILE: Final = 8 * 1024 * 1024  # bytes read; a block list of 200,000 names has 6 MB


def hosts_addresses(text: str, name: str) -> tuple[str, ...]:
    """The addresses that a hosts file has for `name`, in its order and without doubles."""
    wanted = name.lower()
    found: dict[str, None] = {}
    for line in text.splitlines():
        if wanted not in line.lower():  # a block list has 100,000 lines, and one lookup reads all
            continue
        address, *names = line.partition("#")[0].split() or [""]
        if any(one.lower().removesuffix(".") == wanted for one in names) and parse_address(address):
            found[address.partition("%")[0]] = None
    return tuple(found)


def search_domains(resolv_conf: str, own_name: str, local_domain: str | None) -> tuple[str, ...]:
    """Return the domains that the system appends to a name without a dot: resolv.conf(5).

    The last `search` or `domain` line counts; $LOCALDOMAIN (`local_domain`) replaces it. Without
    either, the domain is the part of the machine's own name after the first dot.
    """
    words = [own_name.partition(".")[2]]
    for line in resolv_conf.splitlines():
        keyword, *rest = line.split() or [""]
        if keyword in ("search", "domain"):
            words = rest if keyword == "search" else rest[:1]
    if local_domain is not None:
        words = local_domain.split()
    return _usable(words)


def look_up_names(name: str, search: Sequence[str]) -> tuple[str, ...]:
    """Return the full names that a look-up of `name` asks for, in order.

    A name with a dot is full already. A name without one gets each search domain, then stands for
    itself, as in glibc; localhost names never leave this machine (RFC 6761 6.3).
    """
    if "." in name or ":" in name or is_localhost(name):
        return (name,)
    extended = (f"{name}.{domain}" for domain in search)
    return (*(one for one in extended if len(one) <= MAX_NAME), name)


def _usable(words: Sequence[str]) -> tuple[str, ...]:
    domains: dict[str, None] = {}
    for word in words:
        try:
            host = parse_host(word)
        except BadHost:  # also the bare dot, which is no domain
            continue
        if host.address is None:
            domains[host.name] = None
    return tuple(domains)[:MAX_SEARCH_DOMAINS]
