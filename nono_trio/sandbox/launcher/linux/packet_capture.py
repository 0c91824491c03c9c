"""A packet socket that receives attempts to connect to ports without a listener.

The kernel itself refuses these connections at once; without this socket the attempt (`ssh -p 2222`)
would leave no record, and no hint could name the port. Its filter passes the first packet of a
connection to a port without a listener, cut to its headers. For bulk data the filter runs four
instructions a packet and copies nothing.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    _Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand

HEADERS: Final = 64  # bytes: the longest IPv4 header with all its options, and the ports
_ETH_P_ALL: Final = 3
_SO_ATTACH_FILTER: Final = 26
_BUFFER: Final = 256 << 10  # a port scan can overflow it; lost packets are counted

_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28  # at an offset
_LOAD_BYTE_BEHIND, _LOAD_HALF_BEHIND = 0x50, 0x48  # at an offset behind the IPv4 header
_HEADER_LENGTH = 0xB1  # X = 4 * (byte & 15)
_EQUAL, _ANY_BIT, _AND, _SHIFT, _GO, _RETURN = 0x15, 0x45, 0x54, 0x74, 0x05, 0x06
_TCP, _SYN, _SYN_OR_ACK = 6, 0x02, 0x12


def refused_connections(listened: Iterable[int]) -> socket.socket | None:
    """Open the socket in this network namespace; return None if the kernel lacks packet sockets."""
    sock = None
    try:
        # It covers every link, also later ones; no packet arrives before the filter is attached.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        _attach(sock, _program([*listened]))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    except OSError:
        if sock is not None:
            sock.close()
        return None
    return sock


def _program(listened: list[int]) -> list[_Instruction]:
    """Return a filter that passes only the first packet of connections to other ports.

    A jump reaches 255 instructions; MOST_TRANSPARENT_PORTS keeps the listeners below that.
    """
    drop: _Instruction = (_RETURN, 0, 0, 0)
    ports = [(_EQUAL, len(listened) - place, 0, port) for place, port in enumerate(listened)]
    tail: list[_Instruction] = [*ports, (_RETURN, 0, 0, HEADERS), drop]
    second_version: list[_Instruction] = [
        (_EQUAL, 1, 0, 6), drop,
        (_LOAD_BYTE, 0, 0, 6), (_EQUAL, 1, 0, _TCP), drop,
        (_LOAD_BYTE, 0, 0, 40 + 13), (_AND, 0, 0, _SYN_OR_ACK), (_EQUAL, 1, 0, _SYN), drop,
        (_LOAD_HALF, 0, 0, 40 + 2),
    ]  # fmt: skip
    first_version: list[_Instruction] = [
        (_LOAD_BYTE, 0, 0, 9), (_EQUAL, 1, 0, _TCP), drop,
        (_LOAD_HALF, 0, 0, 6), (_ANY_BIT, 0, 1, 0x1FFF), drop,  # not the first fragment
        (_HEADER_LENGTH, 0, 0, 0),
        (_LOAD_BYTE_BEHIND, 0, 0, 13), (_AND, 0, 0, _SYN_OR_ACK), (_EQUAL, 1, 0, _SYN), drop,
        (_LOAD_HALF_BEHIND, 0, 0, 2), (_GO, 0, 0, len(second_version)),
    ]  # fmt: skip
    head: list[_Instruction] = [
        (_LOAD_BYTE, 0, 0, 0), (_SHIFT, 0, 0, 4), (_EQUAL, 0, len(first_version), 4),
    ]  # fmt: skip
    return [*head, *first_version, *second_version, *tail]


def _attach(sock: socket.socket, program: list[_Instruction]) -> None:
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in program))
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
