"""The descriptors of the supervisor: room for many, and the three that it shares with the child.

A tunnel needs two sockets, and the usual soft limit is 1024. The supervisor raises its own soft
limit, after the launcher was started: the child keeps the caller's, as programs that still use
select() break beyond 1024. The proxy serves as many connections as there is room for. One more gets
an answer that says so, and takes no descriptor that something else needs.

Flags like O_NONBLOCK belong to what is open, not to a descriptor: those that the child sets on its
standard streams are set for the caller's shell as well, and outlive the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import resource

from msgspec.structs import replace

from nono_trio.errors import UsageError
from nono_trio.proxy.limits import DEFAULT_LIMITS, ProxyLimits, most_pipes

# Descriptors that launcher and supervisor have open at the start beside sockets of ports.
_AT_THE_START = 64
_A_CONNECTION = 2  # descriptors: the client's and the upstream's
_A_PIPE = 2  # descriptors: its two ends
_BESIDE = 2048  # descriptors for relays of ports, their pipes, look-ups, files and the loop itself
# Without --max-connections. A browser opens six a host, a build tool some dozens; each may leave 32
# KiB with us that its peer does not read (proxy/limits.py).
USUAL_CONNECTIONS = 4096


def max_connections(wanted: int | None) -> int:
    """Return how many connections the proxy may serve: `wanted`, or USUAL_CONNECTIONS at most.

    Raises UsageError if the hard limit has no room for `wanted`.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return wanted or USUAL_CONNECTIONS
    # A low limit keeps a quarter for all else, and never less than what is open at the start, the
    # pipes of tunnels, and the connections that get a refusal.
    open_beside = _AT_THE_START + most_pipes(hard) * _A_PIPE + max_refusals()
    beside = max(min(_BESIDE, hard // 4), open_beside)
    most = max((hard - beside) // _A_CONNECTION, 1)
    if wanted is None:
        return min(most, USUAL_CONNECTIONS)
    if wanted > most:
        raise UsageError(
            f"--max-connections {wanted}: the hard limit of {hard} open files has no room for them",
            hint=f"--max-connections {most}",
        )
    return wanted


def max_refusals() -> int:
    """Return how many connections over the limit the proxy may have open to refuse them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return DEFAULT_LIMITS.refusals
    return min(max((hard - _AT_THE_START) // 4, 1), DEFAULT_LIMITS.refusals)


def proxy_limits(connections: int) -> ProxyLimits:
    """Return the limits of a proxy that serves so many, of `max_connections`."""
    return replace(DEFAULT_LIMITS, connections=connections, refusals=max_refusals())


def make_room(connections: int) -> None:
    """Raise the soft limit to what `connections` need, or as far as the hard limit lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * _A_CONNECTION + _BESIDE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then the proxy backs off at the old one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_room(ports: int, transparent: int) -> None:
    """Raise UsageError where the caller's limit has no room for the sockets of so many ports.

    `ports`: of `--open-port` and `--listen-port`, two sockets each at most; `transparent`: as many
    of the transparent network. Without the former the hard limit counts alone: below it every
    descriptor would be a listener's, and no connection could be accepted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * (ports + transparent) + _AT_THE_START
    can_raise = hard == resource.RLIM_INFINITY or needed <= hard
    if soft == resource.RLIM_INFINITY or needed <= soft or (not ports and can_raise):
        return
    if not ports:
        raise UsageError(
            f"a run needs {needed} open files, the hard limit is {hard}",
            hint="raise the hard limit (`ulimit -Hn`)"
            + (", or give --transparent off" if transparent else ""),
        )
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
