"""Serves the sockets of the transparent network, for programs that know of no proxy.

Inside the cage every address is local. The name service gives each name fake addresses. A
connection to one of them arrives here, and its destination address tells the name, which is
decided, looked up and dialled as for CONNECT. An address that the child chose is dialled only if it
is an allowed literal.

Rules of this file: no token is required, because only the cage can reach these sockets; an address
that was given to no name is a literal; limits, deadlines and order are the proxy's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import parse_address
from nono_trio.core.net.fake_ip import FakeAddresses
from nono_trio.core.net.host import Host
from nono_trio.proxy.access.transparent_authorizer import TransparentAuthorizer
from nono_trio.proxy.http.connection import HttpConnection
from nono_trio.proxy.http.intercepted_tunnels import InterceptingSniTunnel, InterceptingTunnel
from nono_trio.proxy.listeners.dns_responder import NameService
from nono_trio.proxy.listeners.dns_server import serve_connections, serve_datagrams
from nono_trio.proxy.listeners.ending import LAST_SECONDS
from nono_trio.proxy.listeners.refused_ports import RefusedPorts
from nono_trio.proxy.raw_tunnel import RawTunnel, SniTunnel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.net.address import Address
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.denial_throttle import IsReason
    from nono_trio.proxy.connection_handler import ConnectionHandler, ProxyContext
    from nono_trio.proxy.listeners.proxy import Proxy
    from nono_trio.proxy.transport.client import Client

    DestinationOf: TypeAlias = Callable[[socket.SocketType], tuple[str, int]]

REFUSED: Final = "refused"  # the name of the socket that captures what the kernel refuses
EVERY_PORT: Final = "tcp4:*"  # the name of the listener for each port of some hosts

_TCP = late_pattern(r"tcp[46]:(?:[0-9]+|\*)")
_DNS_DATAGRAMS: Final = ("dns-udp4", "dns-udp6", "dns-udp-loopback")
_DNS_CONNECTIONS: Final = ("dns-tcp4", "dns-tcp6", "dns-tcp-loopback")


def destination_of(sock: socket.SocketType) -> tuple[str, int]:
    """Return the address and port that the peer of an accepted socket has connected to."""
    address, port, *_ = sock.getsockname()
    return address, port


class Transparent:
    """Serves the sockets that the launcher opened where every address is local.

    Connections get the limits, the resolver and the dialler of `proxy`. `own_names` are the names
    of the cage itself, with their addresses in it. `destination` returns a connection's;
    `is_reason` as DenialThrottle has it.
    """

    def __init__(
        self,
        proxy: Proxy,
        policy: Policy,
        recorder: RecordsDecisions,
        *,
        own_names: Mapping[str, Sequence[Address]] | None = None,
        destination: DestinationOf = destination_of,
        is_reason: IsReason | None = None,
    ) -> None:
        self.names = FakeAddresses(
            has_every_port=lambda name: policy.decides_every_port(Host(name))
        )
        self._proxy = proxy
        self._policy = policy
        self._destination = destination
        self._refused = RefusedPorts(self.names, policy, recorder, is_reason)
        self._service = NameService(
            self.names,
            policy,
            recorder,
            own_names=own_names,
            is_reason=is_reason,
            credentials=proxy.credentials,
        )

    async def serve(self, sockets: Mapping[str, socket.socket], handlers: trio.Nursery) -> None:
        """Serve those of `sockets` that are the transparent network's until cancelled, then close
        them; `handlers` gets the connections, as in `Proxy.serve`.

        Names are "tcp4:PORT", "tcp6:PORT" (or `*`: every port of some hosts), "refused", and those
        of the DNS sockets; others are not touched. Raises AuditLost (in a group). At the end it
        takes up to a second to record the number of suppressed denials.
        """
        try:
            async with trio.open_nursery() as nursery:
                for name, sock in sockets.items():
                    if _TCP.fullmatch(name) is not None:
                        # Without TCP_DEFER_ACCEPT: with it, a client that connects and resets the
                        # connection would never be seen.
                        nursery.start_soon(
                            self._proxy.serve_with, self.make_handler, sock, handlers
                        )
                    elif name in _DNS_DATAGRAMS:
                        nursery.start_soon(serve_datagrams, sock, self._service)
                    elif name in _DNS_CONNECTIONS:
                        nursery.start_soon(serve_connections, sock, self._service)
                    elif name == REFUSED:
                        has_every_port = EVERY_PORT in sockets
                        nursery.start_soon(self._refused.serve, sock, has_every_port)
        finally:
            with trio.move_on_after(LAST_SECONDS, shield=True):
                await self._service.record_suppressed()

    def notes(self) -> list[str]:
        """Return sentences for the user, once serving has ended."""
        lost = {
            "packets of the command to refused ports": self._refused.lost,
            "DNS queries of the command": self._service.lost,
        }
        return [
            f"{count} {what} came too fast to be recorded; what they wanted to reach is not known"
            for what, count in lost.items()
            if count
        ]

    def make_handler(
        self, client: Client, proxy_context: ProxyContext, *, full: bool
    ) -> ConnectionHandler:
        """A `ConnectionHandlerFactory`: the port, and the policy entry of the host, decide which
        handler serves a connection."""
        host, port = self._target(client)
        verdict = self._policy.decide(host, port)
        spoken = verdict.inspection.spoken(port)
        if spoken == "http":
            handler = HttpConnection(client, proxy_context, full=full)
            handler.authorizer = TransparentAuthorizer(self._policy, host, port, verdict)
            return handler
        kind = SniTunnel if spoken == "tls" else RawTunnel
        if proxy_context.interception is not None:
            if spoken == "tls":
                kind = InterceptingSniTunnel
            elif verdict.intercepted:
                kind = InterceptingTunnel
        return kind(client, proxy_context, full=full, host=host, port=port, verdict=verdict)

    def _target(self, client: Client) -> tuple[Host, int]:
        text, port = self._destination(client.tcp.sock)
        address = parse_address(text)  # cuts off a zone id: it is of the cage's own interfaces
        if address is None:
            raise AssertionError("the kernel returned a destination that is no IP address")
        name = self.names.name_of(address)
        return (Host(str(address), address) if name is None else Host(name)), port
