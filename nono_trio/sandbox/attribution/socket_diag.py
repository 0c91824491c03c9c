"""The inode of a socket by its two ends: NETLINK_SOCK_DIAG, on a socket of the cage's network.

The kernel answers for the network namespace in which the netlink socket was made, exactly, by its
own hash table: nothing is searched. Rules of this file: nothing here waits (the answers are queued
before `send` returns); an answer counts only if it is about the socket that was asked for, as the
kernel falls back to a listener of the same port.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from nono_trio.core.net.endpoints import Endpoints

GONE: Final = 0  # no socket, or one that no descriptor leads to any more
UNKNOWN: Final = -1  # the kernel did not say

AT_ONCE: Final = 32  # questions in one message: their answers fit into any receive buffer
_MOST_FORMS: Final = 256
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_SEQUENCE: Final = struct.Struct("=I")
_REQUEST: Final = 1  # NLM_F_REQUEST
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_ENTRY_NOT_FOUND: Final = -2  # ENOENT
_QUESTION: Final = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_PORT: Final = struct.Struct("!H")
_NO_PORT: Final = bytes(2)
_NO_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, any cookie
_EVERY_STATE: Final = 0xFFFFFFFF
_LENGTH: Final = _HEADER.size + _QUESTION.size + 48
_START: Final = struct.pack("=IHH", _LENGTH, _SOCK_DIAG_BY_FAMILY, _REQUEST)
_TO_KERNEL: Final = bytes(4)
# Of an answer: type, sequence, the two ports of the socket, its inode.
_ANSWER: Final = struct.Struct("=4xH2xI8x2s2s60xI")
_ERRNO: Final = struct.Struct("=i")
_MOST_ANSWER: Final = 512
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_PADDING: Final = bytes(12)


class _Form(NamedTuple):
    """The bytes of a question before and behind the client's port, and the answer's far ports."""

    before: bytes
    behind: bytes
    far_ports: tuple[bytes, ...]


class SocketDiag:
    """Asks on one netlink socket, which it takes over."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sequence = 0
        self._answer = bytearray(_MOST_ANSWER)
        self._forms: dict[tuple[Literal["tcp", "udp"], str, str, int], _Form] = {}

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
        forms = [self._form(ends) for ends in asked]
        ports = [_PORT.pack(ends.port) for ends in asked]
        questions = [
            _START + _SEQUENCE.pack(sequence) + form[0] + port + form[1]
            for sequence, (form, port) in enumerate(zip(forms, ports, strict=True), first)
        ]
        answer, unpack = self._answer, _ANSWER.unpack_from
        try:
            self._socket.send(b"".join(questions))
            for _ in asked:
                size = self._socket.recv_into(answer)
                kind, sequence, own_port, far_port, inode = unpack(answer)
                place = sequence - first
                if not 0 <= place < len(asked) or size < _ANSWER.size:
                    continue  # of a question that was given up
                if kind != _SOCK_DIAG_BY_FAMILY:
                    found[place] = self._error(kind)
                elif own_port == ports[place] and far_port in forms[place].far_ports:
                    found[place] = inode
                else:  # a listener at the client's port, say: the connection itself is no more
                    found[place] = GONE
        except OSError:  # no memory, or a kernel that does not answer: nothing is guessed
            pass
        return found

    def _error(self, kind: int) -> int:
        (number,) = _ERRNO.unpack_from(self._answer, _HEADER.size)
        return GONE if kind == _NLMSG_ERROR and number == _ENTRY_NOT_FOUND else UNKNOWN

    def _form(self, ends: Endpoints) -> _Form:
        """The form of the questions about connections of this address to this server."""
        key = ends.protocol, ends.address, ends.server, ends.server_port
        form = self._forms.get(key)
        if form is None:
            form = _form(*key)
            if len(self._forms) >= _MOST_FORMS:
                self._forms.clear()
            self._forms[key] = form
        return form


def _form(protocol: Literal["tcp", "udp"], address: str, server: str, server_port: int) -> _Form:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    client, far = _packed(family, address), _packed(family, server)
    question = _TO_KERNEL + _QUESTION.pack(family, _PROTOCOLS[protocol], 0, _EVERY_STATE)
    far_port = _PORT.pack(server_port)
    if protocol == "udp":  # "src and dst are swapped for historical reasons" (the kernel)
        # An unconnected UDP socket has no other end.
        return _Form(question + far_port, far + client + _NO_COOKIE, (far_port, _NO_PORT))
    return _Form(question, far_port + client + far + _NO_COOKIE, (far_port,))


def _packed(family: int, address: str) -> bytes:
    if family == socket.AF_INET6:
        return socket.inet_pton(family, address)
    return socket.inet_aton(address) + _PADDING
