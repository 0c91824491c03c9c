"""The inode of a socket by its two ends: NETLINK_SOCK_DIAG, on a socket of the cage's network.

The kernel answers for the network namespace in which the netlink socket was made, exactly, by its
own hash table: nothing is searched. Rules of this file: nothing here waits (the answers are queued
before `send` returns); an answer counts only if it is about the socket that was asked for, as the
kernel falls back to a listener of the same port.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.net.endpoints import Endpoints

GONE: Final = 0  # no socket, or one that no descriptor leads to any more
UNKNOWN: Final = -1  # the kernel did not say

AT_ONCE: Final = 32  # questions in one message: their answers fit into any receive buffer
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = 1  # NLM_F_REQUEST
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_ENTRY_NOT_FOUND: Final = -2  # ENOENT
_QUESTION: Final = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_PORTS: Final = struct.Struct("!HH")
_NO_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, any cookie
_EVERY_STATE: Final = 0xFFFFFFFF
_LENGTH: Final = _HEADER.size + _QUESTION.size + 48
_PORTS_AT: Final = _HEADER.size + 4
_INODE_AT: Final = _HEADER.size + 68
_INODE: Final = struct.Struct("=I")
_SEQUENCE: Final = struct.Struct("=I")
_SEQUENCE_AT: Final = 8
_KIND: Final = struct.Struct("=H")
_KIND_AT: Final = 4
_MOST_ANSWER: Final = 512
_ERRNO: Final = struct.Struct("=i")
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_PADDING: Final = bytes(12)


class SocketDiag:
    """Asks on one netlink socket, which it takes over."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sequence = 0

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def inodes(self, asked: Sequence[Endpoints]) -> list[int]:
        """The inode of each socket, GONE or UNKNOWN. Raises nothing."""
        found: list[int] = []
        for start in range(0, len(asked), AT_ONCE):
            found += self._ask(asked[start : start + AT_ONCE])
        return found

    def _ask(self, asked: Sequence[Endpoints]) -> list[int]:
        found = [UNKNOWN] * len(asked)
        first = self._sequence = (self._sequence + AT_ONCE) & 0x3FFFFFFF
        try:
            self._socket.send(
                b"".join(_question(ends, first + place) for place, ends in enumerate(asked))
            )
            for _ in asked:
                answer = self._socket.recv(_MOST_ANSWER)
                place = _SEQUENCE.unpack_from(answer, _SEQUENCE_AT)[0] - first
                if 0 <= place < len(asked):  # else: of a question that was given up
                    found[place] = _inode(answer, asked[place])
        except OSError:  # no memory, or a kernel that does not answer: nothing is guessed
            pass
        return found


def _question(ends: Endpoints, sequence: int) -> bytes:
    family = socket.AF_INET6 if ":" in ends.server else socket.AF_INET
    client, server = _packed(family, ends.address), _packed(family, ends.server)
    ports = _PORTS.pack(ends.port, ends.server_port)
    if ends.protocol == "udp":  # "src and dst are swapped for historical reasons" (the kernel)
        client, server = server, client
        ports = _PORTS.pack(ends.server_port, ends.port)
    return b"".join(
        (
            _HEADER.pack(_LENGTH, _SOCK_DIAG_BY_FAMILY, _REQUEST, sequence, 0),
            _QUESTION.pack(family, _PROTOCOLS[ends.protocol], 0, _EVERY_STATE),
            ports, client, server, _NO_COOKIE,
        )
    )  # fmt: skip


def _packed(family: int, address: str) -> bytes:
    if family == socket.AF_INET6:
        return socket.inet_pton(family, address)
    return socket.inet_aton(address) + _PADDING


def _inode(answer: bytes, ends: Endpoints) -> int:
    (kind,) = _KIND.unpack_from(answer, _KIND_AT)
    if kind == _NLMSG_ERROR:
        (number,) = _ERRNO.unpack_from(answer, _HEADER.size)
        return GONE if number == _ENTRY_NOT_FOUND else UNKNOWN
    if kind != _SOCK_DIAG_BY_FAMILY or len(answer) < _INODE_AT + _INODE.size:
        return UNKNOWN
    port, server_port = _PORTS.unpack_from(answer, _PORTS_AT)
    # An unconnected UDP socket has no other end.
    expected = (ends.server_port,) if ends.protocol == "tcp" else (ends.server_port, 0)
    if port != ends.port or server_port not in expected:
        return GONE  # a listener at the client's port, say: the connection itself is no more
    inode: int = _INODE.unpack_from(answer, _INODE_AT)[0]
    return inode
