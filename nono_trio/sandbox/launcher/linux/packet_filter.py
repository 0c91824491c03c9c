"""Classic BPF programs for packet sockets: which packets of the cage's links are received.

Rules of this file:
- A program runs for every packet of a link, so the packets of open connections are dropped first.
- Every jump is to a label, and every label is behind its jumps: the kernel has no loops.
- Any packet that a program can't read is dropped.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

# An allowlist has some addresses. The kernel gives a program 20 KiB, and this is a third of it.
MOST_NETWORKS: Final = 64
SNAPSHOT: Final = 128  # bytes: an IP header with options, and the first bytes behind it

_SO_ATTACH_FILTER: Final = 26
_INSTRUCTION: Final = struct.Struct("=HBBI")
_WORDS: Final = struct.Struct("!I")

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30  # at an offset
_LOAD_WORD_BEHIND, _LOAD_HALF_BEHIND, _LOAD_BYTE_BEHIND = (
    0x40,
    0x48,
    0x50,
)  # at an offset behind X bytes
_HEADER_LENGTH = 0xB1  # X = 4 * (byte & 15)
_EQUAL, _ANY_BIT, _AND, _SHIFT, _GO, _RETURN = 0x15, 0x45, 0x54, 0x74, 0x05, 0x06

_PACKET_TYPE: Final = 0xFFFF_F000 + 4  # not an offset: the kernel answers with the direction
_OUTGOING: Final = 4
_LATER_FRAGMENT: Final = 0x1FFF
_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 6, 17, 33, 132, 136
_OTHER_DATAGRAMS: Final = (_UDP_LITE, _SCTP, _DCCP)
_ROUTING, _FRAGMENT, _OPTIONS = 43, 44, 60  # headers between the IPv6 header and the transport's
_SYN, _SYN_OR_ACK, _RST_AND_ACK = 0x02, 0x12, 0x14
_IPV6_HEADER: Final = 40


class _Step(NamedTuple):
    """One instruction. Without a label for an outcome, the next step follows it."""

    code: int
    operand: int = 0
    if_true: str = ""
    if_false: str = ""
    label: str = ""


def refused_attempts(
    listened: Sequence[int], dns_port: int, networks: Sequence[tuple[bytes, bytes]] = ()
) -> list[bytes]:
    """Return a program that passes the first packet of a connection to another port than
    `listened`, and every incoming datagram except UDP to `dns_port`.

    Connections to the first MOST_NETWORKS of `networks` (address and mask) do not pass. A jump
    reaches 255 steps; MOST_TRANSPARENT_PORTS keeps the program below that.
    """
    ipv4, ipv6 = (
        [one for one in networks[:MOST_NETWORKS] if len(one[0]) == size] for size in (4, 16)
    )
    return _assemble(
        [
            *_by_version(),
            *_attempts_ipv4(dns_port),
            *_attempts_ipv6(dns_port),
            *_only_incoming(),
            _Step(_RETURN, label="drop"),
            *_drop_networks(ipv4, 16, "every4"),
            _Step(_LOAD_HALF_BEHIND, 2),
            _Step(_GO, if_true="ports"),
            *_drop_networks(ipv6, 24, "every6"),
            _Step(_LOAD_HALF, _IPV6_HEADER + 2),
            *_drop_ports(listened, "ports"),
        ]
    )


def _attempts_ipv4(dns_port: int) -> list[_Step]:
    """From "ipv4": a first packet goes on to "every4", a datagram to "incoming"."""
    return [
        _Step(_LOAD_BYTE, 9, label="ipv4"),
        _Step(_EQUAL, _TCP, "tcp4"),
        _Step(_EQUAL, _UDP, "udp4"),
        *(_Step(_EQUAL, protocol, "other4") for protocol in _OTHER_DATAGRAMS),
        _Step(_RETURN),
        *_behind_ipv4("tcp4"),
        _Step(_LOAD_BYTE_BEHIND, 13),
        _Step(_AND, _SYN_OR_ACK),
        _Step(_EQUAL, _SYN, if_false="drop"),
        _Step(_GO, if_true="every4"),
        *_behind_ipv4("udp4"),
        _Step(_LOAD_HALF_BEHIND, 2),
        _Step(_EQUAL, dns_port, "drop", "incoming"),
        *_behind_ipv4("other4"),
        _Step(_GO, if_true="incoming"),
    ]


def _attempts_ipv6(dns_port: int) -> list[_Step]:
    """From "ipv6": a first packet goes on to "every6", a datagram to "incoming"."""
    headers = (*_OTHER_DATAGRAMS, _ROUTING, _FRAGMENT, _OPTIONS)
    return [
        _Step(_LOAD_BYTE, 6, label="ipv6"),
        _Step(_EQUAL, _TCP, "tcp6"),
        _Step(_EQUAL, _UDP, "udp6"),
        *(_Step(_EQUAL, header, "incoming") for header in headers),
        _Step(_RETURN),
        _Step(_LOAD_HALF, _IPV6_HEADER + 2, label="udp6"),
        _Step(_EQUAL, dns_port, "drop", "incoming"),
        _Step(_LOAD_BYTE, _IPV6_HEADER + 13, label="tcp6"),
        _Step(_AND, _SYN_OR_ACK),
        _Step(_EQUAL, _SYN, if_false="drop"),
        _Step(_GO, if_true="every6"),
    ]


def _drop_ports(listened: Sequence[int], label: str) -> list[_Step]:
    """Drop the packet if its port, which is loaded, is one of `listened`; pass it otherwise."""
    return [
        *(
            _Step(_EQUAL, port, "listened", label=label if number == 0 else "")
            for number, port in enumerate(listened)
        ),
        _Step(_RETURN, SNAPSHOT),
        _Step(_RETURN, label="listened"),
    ]


def refusals() -> list[bytes]:
    """Return a program that passes the kernel's answer to a connection to a port without a
    listener: RST and ACK with sequence number 0 (RFC 9293 3.10.7.1). A connection that was open is
    reset with its own sequence number.
    """
    return _assemble(
        [
            *_by_version(),
            _Step(_LOAD_BYTE, 9, label="ipv4"),
            _Step(_EQUAL, _TCP, if_false="drop"),
            *_behind_ipv4("tcp4"),
            _Step(_LOAD_BYTE_BEHIND, 13),
            _Step(_EQUAL, _RST_AND_ACK, if_false="drop"),
            _Step(_LOAD_WORD_BEHIND, 4),
            _Step(_EQUAL, 0, "incoming", "drop"),
            _Step(_LOAD_BYTE, 6, label="ipv6"),
            _Step(_EQUAL, _TCP, if_false="drop"),
            _Step(_LOAD_BYTE, _IPV6_HEADER + 13),
            _Step(_EQUAL, _RST_AND_ACK, if_false="drop"),
            _Step(_LOAD_WORD, _IPV6_HEADER + 4),
            _Step(_EQUAL, 0, if_false="drop"),
            *_only_incoming(),
            _Step(_RETURN, label="drop"),
        ]
    )


def attach(sock: socket.socket, program: Sequence[bytes]) -> None:
    """Let the kernel run the program for each packet of the socket. Raises OSError."""
    code = ctypes.create_string_buffer(b"".join(program))
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)


def _by_version() -> list[_Step]:
    return [
        _Step(_LOAD_BYTE),
        _Step(_SHIFT, 4),
        _Step(_EQUAL, 4, "ipv4"),
        _Step(_EQUAL, 6, "ipv6", "drop"),
    ]


def _behind_ipv4(label: str) -> list[_Step]:
    """Set X to the length of the IPv4 header; drop fragments that have no transport header."""
    return [
        _Step(_LOAD_HALF, 6, label=label),
        _Step(_ANY_BIT, _LATER_FRAGMENT, "drop"),
        _Step(_HEADER_LENGTH),
    ]


def _drop_networks(networks: Sequence[tuple[bytes, bytes]], at: int, label: str) -> list[_Step]:
    """Drop a packet to one of `networks`; the header has the destination `at` an offset."""
    steps = [_Step(_LOAD_BYTE, label=label)]  # a place to jump to
    for number, (address, mask) in enumerate(networks):
        other = f"{label} {number}"
        words = zip(_WORDS.iter_unpack(address), _WORDS.iter_unpack(mask), strict=True)
        for place, ((wanted,), (bits,)) in enumerate(words):
            if bits:
                steps.append(_Step(_LOAD_WORD, at + place * _WORDS.size))
                steps.append(_Step(_AND, bits))
                steps.append(_Step(_EQUAL, wanted & bits, if_false=other))
        # The loaded byte is not used: the next network has a place to jump to.
        steps += [_Step(_RETURN), _Step(_LOAD_BYTE, label=other)]
    return steps


def _only_incoming() -> list[_Step]:
    """Pass what comes from the link: a packet socket also gets what is sent to it, our answers."""
    return [
        _Step(_LOAD_WORD, _PACKET_TYPE, label="incoming"),
        _Step(_EQUAL, _OUTGOING, "drop"),
        _Step(_RETURN, SNAPSHOT),
    ]


def _assemble(steps: Sequence[_Step]) -> list[bytes]:
    places = {step.label: place for place, step in enumerate(steps) if step.label}
    program = []
    for place, step in enumerate(steps):
        if_true, if_false = (
            places[label] - place - 1 if label else 0 for label in (step.if_true, step.if_false)
        )
        if step.code == _GO:
            program.append(_INSTRUCTION.pack(_GO, 0, 0, if_true))
        else:  # raises struct.error for a jump that is too far
            program.append(_INSTRUCTION.pack(step.code, if_true, if_false, step.operand))
    return program
