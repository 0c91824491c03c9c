"""One look-up of a name, as a thread does it: the hosts file first, then the system's services.

Rules of this file: a name is looked up with its final dot, so that no search domain of resolv.conf
is appended. Nothing here knows the loop.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.core.policy.resolver_files import MAX_HOSTS_FILE, hosts_addresses
from nono_trio.core.policy.rule import is_localhost
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS_FILE: Final = Path("/etc/hosts")
LOCAL: Final = ("127.0.0.1", "::1")  # localhost names that no hosts file has: RFC 6761 6.3


def addresses_of(name: str) -> tuple[str, ...]:
    """Ask the system's name services. Blocks; raises OSError, and UnicodeError for no name."""
    # Bytes: for text, Python applies its own IDNA codec, which has a module of its own to import.
    found = socket.getaddrinfo(f"{name}.".encode("ascii"), None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def addresses_in(path: Path, name: str) -> tuple[str, ...]:
    """The addresses of `name` in a hosts file; none if it can't be read or is too long."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_HOSTS_FILE:
                return ()
            text = file.read(MAX_HOSTS_FILE).decode("utf-8", "replace")
    except OSError:
        return ()
    return hosts_addresses(text, name)


def look_up(
    name: str,
    hosts_file: Path = HOSTS_FILE,
    get_addresses: Callable[[str], tuple[str, ...]] = addresses_of,
) -> tuple[str, ...]:
    """Return the addresses of a name. Blocks; raises as `addresses_of`."""
    found = addresses_in(hosts_file, name)
    if found or is_localhost(name):
        return found or LOCAL
    return get_addresses(name)
