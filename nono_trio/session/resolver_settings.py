"""What this machine appends to a name without a dot, read once when a session starts.

So the names that a session may look up are fixed with its policy, and each can be checked and
recorded before it is asked for.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from nono_trio.audit.regular import open_regular
from nono_trio.core.resolver_files import search_domains

RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_RESOLV_CONF: Final = 64 * 1024  # bytes read; the C library's own limits are far lower


def system_search(resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """The system's search domains; those of its own name where there is no such file."""
    try:
        with open_regular(resolv_conf) as file:
            text = file.read(MAX_RESOLV_CONF).decode("utf-8", "replace")
    except OSError:
        text = ""
    return search_domains(text, socket.gethostname(), os.environ.get("LOCALDOMAIN"))
