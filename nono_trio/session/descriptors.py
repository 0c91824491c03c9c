"""The descriptors of the supervisor: room for many, and the three that it shares with the child.

A tunnel needs two sockets, and the usual soft limit is 1024. The supervisor raises its own soft
limit, after the launcher was started: the child keeps the caller's, as programs that still use
select() break beyond 1024.

Flags like O_NONBLOCK belong to what is open, not to a descriptor: those that the child sets on its
standard streams are set for the caller's shell as well, and outlive the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import resource

from nono_trio.errors import UsageError

# Descriptors that launcher and supervisor have open at the start beside sockets of ports.
_AT_THE_START = 64
# Twice the proxy's connections, and again as much for relays, files and the loop itself.
WANTED = 8192


def make_room() -> None:
    """Raise the soft limit to WANTED, or as far as the hard limit lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then the proxy backs off at the old one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_room(ports: int, transparent: int) -> None:
    """Raise UsageError where the caller's limit has no room for the sockets of so many ports.

    `ports`: of `--open-port` and `--listen-port`, two sockets each at most; `transparent`: as many
    of the transparent network.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * (ports + transparent) + _AT_THE_START
    if not ports or soft == resource.RLIM_INFINITY or needed <= soft:
        return
    can_raise = hard == resource.RLIM_INFINITY or needed <= hard
    raise UsageError(
        f"{ports} ports of --open-port and --listen-port need {needed} open files, the limit is"
        f" {soft}",
        hint=f"raise it first: ulimit -n {needed}" if can_raise else "name fewer ports",
    )


class StandardStreams:
    """The flags of stdin, stdout and stderr as they are now."""

    def __init__(self) -> None:
        self._flags: dict[int, int] = {}
        for descriptor in (0, 1, 2):
            with contextlib.suppress(OSError):  # it is not open
                self._flags[descriptor] = fcntl.fcntl(descriptor, fcntl.F_GETFL)

    def put_back(self) -> None:
        """Set the flags that they had; only once no process of the cage is left to change them."""
        for descriptor, flags in self._flags.items():
            with contextlib.suppress(OSError):
                if fcntl.fcntl(descriptor, fcntl.F_GETFL) != flags:
                    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
