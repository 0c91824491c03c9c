"""The resolver settings of this machine's files, read once when a session starts.

The suffixes of a name without a dot are read: so the names of a session are fixed with its
policy, and each can be checked and recorded before it is asked for. And which names mean the
machine itself, and so the cage.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.shown_text import counted
from nono_trio.core.policy.allowed_host import parse_allowed
from nono_trio.core.policy.cage_names import OwnNames, names_of_the_cage, names_of_the_machine
from nono_trio.core.policy.resolver_files import MAX_HOSTS_FILE, search_domains
from nono_trio.core.policy.rule import parse_pin
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Container

    from nono_trio.config.options import NetworkOptions

RESOLV_CONF: Final = Path("/etc/resolv.conf")
HOSTS_FILE: Final = Path("/etc/hosts")
MAX_RESOLV_CONF: Final = 64 * 1024  # bytes read; the C library's own limits are far lower


def system_search(resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """The system's search domains; those of its own name where there is no such file."""
    text = _text_of(resolv_conf, MAX_RESOLV_CONF)
    return search_domains(text, socket.gethostname(), os.environ.get("LOCALDOMAIN"))


def own_names(
    elsewhere: Container[str], *, own_hosts_file: bool, hosts_file: Path = HOSTS_FILE
) -> OwnNames:
    """The names that mean the cage; `elsewhere` are those that rules or pins name.

    `own_hosts_file`: the cage has one of its own, else it sees the machine's.
    """
    text = _text_of(hosts_file, MAX_HOSTS_FILE)
    if own_hosts_file:
        return names_of_the_cage(text, socket.gethostname(), elsewhere)
    return names_of_the_machine(text, elsewhere)


def named_hosts(network: NetworkOptions) -> frozenset[str]:
    """The hosts that rules and pins name, and so mean elsewhere and not in the cage."""
    rules = [parse_allowed(entry) for entry in network.allow]
    pins = [parse_pin(entry) for entry in network.resolve]
    named = [rule.host.name for rule in rules if not rule.wildcard]
    return frozenset([*named, *(pin.host.name for pin in pins)])


def direct_warnings(count: int) -> list[str]:
    """Say how many names of this machine programs will take to the proxy, which denies them."""
    if not count:
        return []
    return [
        f"no room in NO_PROXY for {counted(count, 'name')} that /etc/hosts has at loopback"
        " addresses: programs go to the proxy there, which denies what no rule allows"
    ]


def _text_of(path: Path, limit: int) -> str:
    """The first `limit` bytes of a file, as text; nothing where it can't be read."""
    try:
        with open_regular(path) as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""
