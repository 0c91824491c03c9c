"""Room for descriptors: a tunnel needs two sockets, and the usual soft limit is 1024.

The supervisor raises its own soft limit, after the launcher was started: the child keeps the
caller's, as programs that still use select() break beyond 1024.
"""

from __future__ import annotations

import contextlib
import resource

# Twice the proxy's connections, and again as much for relays, files and the loop itself.
WANTED = 8192


def make_room() -> None:
    """Raise the soft limit to WANTED, or as far as the hard limit lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then the proxy backs off at the old one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
