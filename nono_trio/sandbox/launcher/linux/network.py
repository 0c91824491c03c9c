"""The transparent network: every address leads to our listeners, for programs without a proxy.

The child's network has one link, to a second namespace in which every address is local: each
connection arrives at a listener there, and the socket's own address is the wanted one. Two
namespaces instead of local routes in the child's own: listeners there would take ports from the
child's servers (a listening 0.0.0.0:8080 prevents binding 127.0.0.1:8080). The second namespace has
no other link, so no packet leaves it.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from ..addresses import (
    CHILD_IPV4,
    CHILD_IPV6,
    DNS_PORT,
    GATEWAY_IPV4,
    GATEWAY_IPV6,
)
from . import syscalls
from .namespaces import LISTEN_BACKLOG, LOOPBACK, raise_loopback
from .netlink import Netlink
from .packet_capture import CAPTURE, refused_packets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LOOPBACK_INDEX = 1  # of every network namespace
_LINK_INDEX = 2
# The largest a veth takes: bulk data moves in few packets, and nothing of it is ever on a wire.
_MTU = 65_535
# A program that looks up a thousand names at once loses none: the kernel counts 768 bytes for each
# query. An ordinary user gets twice net.core.rmem_max, some 550 queries.
_QUERIES_BUFFER = 1 << 20
_SO_RCVBUFFORCE = 33


class OuterNetwork:
    """The namespace with the listeners; entered first, then left for the child's own."""

    def __init__(self, ports: Sequence[int], every_port_networks: Sequence[str]) -> None:
        """Open the listeners in the current network namespace, which must be new: of `ports`, and
        of every port of some networks, if the kernel has tproxy."""
        raise_loopback()
        self._netlink = Netlink()
        self._netlink.make_everything_local(_LOOPBACK_INDEX)
        self._namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        # Otherwise every ping would succeed, as if every address could be reached.
        _write_setting("/proc/sys/net/ipv4/icmp_echo_ignore_all")
        _write_setting("/proc/sys/net/ipv6/icmp/echo_ignore_all")
        self.sockets = _listeners(ports)
        listened = [*ports, DNS_PORT]
        networks: list[tuple[bytes, bytes]] = []
        if every_port_networks:
            from .tproxy import listen_on_every_port, masked  # late: few kernels have it

            every_port = listen_on_every_port(every_port_networks, listened)
            self.sockets |= every_port
            listened += {sock.getsockname()[1] for sock in every_port.values()}
            networks = [masked(network) for network in every_port_networks if every_port]
        refused = refused_packets(listened, networks)
        if refused is not None:
            self.sockets[CAPTURE] = refused

    def enter_inner(self) -> None:
        """Move this process into the child's own network, linked to this one."""
        syscalls.unshare(syscalls.CLONE_NEWNET)
        raise_loopback()
        inner = Netlink()
        inner.make_veth("eth0", "cage", _LINK_INDEX, _MTU, self._namespace)
        self._netlink.raise_link(_LINK_INDEX)
        self._netlink.add_address(_LINK_INDEX, GATEWAY_IPV6, 64)
        self._netlink.route_to(CHILD_IPV4, _LINK_INDEX)
        self._netlink.route_to(CHILD_IPV6, _LINK_INDEX)
        inner.add_address(_LINK_INDEX, CHILD_IPV4, 32)
        inner.raise_link(_LINK_INDEX)
        inner.add_address(_LINK_INDEX, CHILD_IPV6, 128)
        inner.default_route(GATEWAY_IPV4, _LINK_INDEX)
        inner.default_route(GATEWAY_IPV6, _LINK_INDEX)
        # Each destination has 28,000 source ports for a minute of connections. Reuse ports in
        # TIME_WAIT (RFC 6191): a veth has no late packets.
        _write_setting("/proc/sys/net/ipv4/tcp_tw_reuse")
        inner.close()
        self._netlink.close()
        os.close(self._namespace)


def _write_setting(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except (
        OSError
    ):  # a kernel without it, or a read-only /proc/sys; no setting is needed for safety
        return
    try:
        os.write(descriptor, b"1")
    finally:
        os.close(descriptor)


def _listeners(ports: Iterable[int]) -> dict[str, socket.socket]:
    sockets: dict[str, socket.socket] = {}
    for family, number in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        for port in ports:
            sockets[f"tcp{number}:{port}"] = _listen(family, port)
        sockets[f"dns-tcp{number}"] = _listen(family, DNS_PORT)
        sockets[f"dns-udp{number}"] = bind(family, socket.SOCK_DGRAM, DNS_PORT)
    return sockets


def loopback_dns() -> dict[str, socket.socket]:
    """Open DNS sockets on 127.0.0.1 of the current network, the child's own.

    Resolvers that find no resolv.conf ask there.
    """
    return {
        "dns-tcp-loopback": _listen(socket.AF_INET, DNS_PORT, LOOPBACK),
        "dns-udp-loopback": bind(socket.AF_INET, socket.SOCK_DGRAM, DNS_PORT, LOOPBACK),
    }


def _listen(family: int, port: int, address: str = "") -> socket.socket:
    listener = bind(family, socket.SOCK_STREAM, port, address)
    listener.listen(LISTEN_BACKLOG)
    return listener


def bind(family: int, kind: int, port: int, address: str = "") -> socket.socket:
    """Return a socket at `address` and `port` of the current network; "" is every address."""
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_DGRAM:
        _enlarge_buffer(sock)
    return sock


def _enlarge_buffer(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUERIES_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUERIES_BUFFER)
