"""A minimal rtnetlink client: links, addresses and routes in our own network namespaces.

Messages have the layout of rtnetlink(7), and each is answered before the next. An error is raised
as OSError with the failed request. A socket stays in the namespace where it was opened, so one
process can configure two namespaces.
"""

from __future__ import annotations

import os
import socket
import struct

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags

_NETLINK_SOCK_DIAG = 4
_NLMSG_ERROR = 2
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 20, 24
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_UP = 0x1
_IFNAME, _MTU, _LINKINFO, _NET_NS_FD = 3, 4, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NO_DAD = 0x02  # duplicate detection would keep an IPv6 address unusable for a second
_DST, _OIF, _GATEWAY = 1, 4, 5
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_STATIC = 4
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
_UNICAST, _LOCAL = 1, 2
_ONLINK = 4


def open_socket_diag() -> socket.socket | None:
    """Open a socket on which the kernel tells which inode a connection of this network namespace
    has; None where it has no such sockets. The supervisor asks on it."""
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    except OSError:
        return None


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute of a message, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


class Netlink:
    """One rtnetlink socket, bound to the network namespace in which it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def make_veth(self, name: str, peer: str, index: int, mtu: int, peer_namespace: int) -> None:
        """Make a pair of links: `name` here, `peer` in the namespace open at `peer_namespace`.

        Both get the same interface `index`, each in its own namespace.
        """
        far = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFNAME, peer.encode() + b"\0")
        far += _number(_MTU, mtu) + _number(_NET_NS_FD, peer_namespace)
        data = attribute(_INFO_DATA, attribute(_VETH_PEER, far))
        body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFNAME, name.encode() + b"\0")
        body += _number(_MTU, mtu)
        body += attribute(_LINKINFO, attribute(_INFO_KIND, b"veth") + data)
        self._ask(_NEW_LINK, _CREATE, body, f"make link {name}")

    def raise_link(self, index: int) -> None:
        """Bring a link up."""
        self._ask(_NEW_LINK, 0, _LINK.pack(0, 0, index, _UP, _UP), f"raise link {index}")

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Give a link an address."""
        family, packed = _packed(address)
        body = _ADDRESS.pack(family, prefix, 0, _SCOPE_UNIVERSE, index)
        body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        if family == socket.AF_INET6:
            body += _number(_IFA_FLAGS, _NO_DAD)
        self._ask(_NEW_ADDRESS, _CREATE | _REPLACE, body, f"add address {address}")

    def make_everything_local(self, index: int) -> None:
        """Deliver every IPv4 and IPv6 address to this namespace's own sockets."""
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _ROUTE.pack(family, 0, 0, 0, _TABLE_LOCAL, _STATIC, _SCOPE_HOST, _LOCAL, 0)
            self._ask(_NEW_ROUTE, _CREATE, body + _number(_OIF, index), "make everything local")

    def route_to(self, address: str, index: int) -> None:
        """Route one address to a link, in spite of `make_everything_local`."""
        family, packed = _packed(address)
        length = len(packed) * 8
        body = _ROUTE.pack(family, length, 0, 0, _TABLE_LOCAL, _STATIC, _SCOPE_LINK, _UNICAST, 0)
        body += attribute(_DST, packed) + _number(_OIF, index)
        self._ask(_NEW_ROUTE, _CREATE, body, f"route to {address}")

    def default_route(self, gateway: str, index: int) -> None:
        """Route all other addresses to `gateway`, which is on the link even without a prefix."""
        family, packed = _packed(gateway)
        body = _ROUTE.pack(
            family, 0, 0, 0, _TABLE_MAIN, _STATIC, _SCOPE_UNIVERSE, _UNICAST, _ONLINK
        )
        body += attribute(_GATEWAY, packed) + _number(_OIF, index)
        self._ask(_NEW_ROUTE, _CREATE, body, f"default route by {gateway}")

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> None:
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, _REQUEST | _ACK | flags, 1, 0) + body)
        answer = self._socket.recv(65536)
        _, answer_kind, _, _, _ = _HEADER.unpack_from(answer)
        (number,) = struct.unpack_from("=i", answer, _HEADER.size)
        if answer_kind != _NLMSG_ERROR or number:
            raise OSError(-number or 71, f"{what}: {os.strerror(-number or 71)}")
