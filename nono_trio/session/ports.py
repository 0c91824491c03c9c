"""The ports of a session: on the host's loopback, into the cage, in the cage's own network.

Rules of this file: a port that could not be relayed and recorded as promised is refused before
anything is made.
"""

from __future__ import annotations

import errno
import secrets
import socket
from typing import TYPE_CHECKING

from nono_trio.core.net.host import parse_host
from nono_trio.errors import UsageError
from nono_trio.sandbox.build_plan import transparent_ports

if TYPE_CHECKING:
    from nono_trio.config.options import RunOptions
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.sandbox.launcher.cage_plan import Isolation

# In a network of its own every port is free; a random one keeps programs from relying on it.
_PORTS = range(20_000, 60_000)


def check_ports(options: RunOptions, isolation: Isolation, policy: Policy) -> None:
    """Raise UsageError for ports that could not be relayed and recorded as promised."""
    check_contradictions(options, policy)
    if options.open_ports and isolation != "namespace":
        raise UsageError(
            f"--open-port needs namespace isolation, got {isolation}: the command would reach the"
            " port past the audit",
            hint="allow it through the proxy instead, for programs that know of it:"
            f" --allow-domain localhost:{options.open_ports[0]}",
        )
    both = {*options.open_ports} & {*options.listen_ports, options.session.network.proxy_port}
    if both:
        raise UsageError(f"port {min(both)} is asked for twice", hint="give each port one use")


def check_contradictions(options: RunOptions, policy: Policy) -> None:
    """Raise UsageError for a port of this machine that the same options open and close."""
    for port in options.open_ports:
        for name in ("127.0.0.1", "localhost", "::1"):
            denial = policy.denial_of(parse_host(name), port)
            if denial is None:
                continue
            network = options.session.network
            closing = network.source("block_net")
            if denial.rule is not None:
                source = network.source("deny_domain", denial.rule)
                closing = f"{source} {denial.rule}" if source.startswith("--") else source
            raise UsageError(
                f"--open-port {port} contradicts {closing}", hint="give one of the two, not both"
            )


def ports_of_cage(options: RunOptions, isolation: Isolation, policy: Policy) -> list[int]:
    """Return the ports of the transparent network; empty where the cage has no such network.

    Raises UsageError for `--transparent on` in another isolation.
    """
    if isolation == "namespace":
        return [] if options.transparent is False else transparent_ports(policy.named_ports)
    if options.transparent:
        raise UsageError(
            f"--transparent on needs namespace isolation, got {isolation}",
            hint="without it programs have to know of the proxy (HTTP_PROXY is set)",
        )
    return []


def listen(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Open a listening socket on the host; raises UsageError where that fails."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        hint = "choose another port, or 0 for any free one"
        if error.errno == errno.EADDRNOTAVAIL:
            hint = "choose an address of this machine, as 127.0.0.1 is"
        shown = f"[{address}]" if ":" in address else address
        raise UsageError(f"can't listen on {shown}:{port}: {error.strerror}", hint=hint) from error
    return listener


def host_listeners(
    options: RunOptions, isolation: Isolation
) -> tuple[dict[int, socket.socket], dict[int, str]]:
    """Open the host's side of each `--listen-port`; raises UsageError as `listen`.

    The second are the ports that only a profile of ours asks for and that another process has, each
    with a warning: a second session of an agent works without the port of its login. Without a
    network of its own the child listens itself: both are empty.
    """
    listeners: dict[int, socket.socket] = {}
    taken: dict[int, str] = {}
    for port in options.listen_ports if isolation == "namespace" else ():
        source = options.session.network.source("listen_port", port)
        try:
            listeners[port] = listen(port)
        except UsageError as error:
            if not source.startswith("built-in "):
                raise
            taken[port] = f"{source}: {error.message}; the session has no such port"
    return listeners, taken


def any_port(options: RunOptions) -> int:
    """Choose a port for the proxy in a network of the cage's own."""
    taken = {*options.open_ports, *options.listen_ports}
    while (port := _PORTS[secrets.randbelow(len(_PORTS))]) in taken:
        pass
    return port
