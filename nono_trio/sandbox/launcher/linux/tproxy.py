"""Two listeners that get connections to every port of some networks (tproxy).

A listener has one port. For `HOST:*` the kernel's packet filter gives each new connection to HOST
to one of these two sockets; the socket's own address is still the wanted address and port. The
filter looks at the first packet of a connection only, because the kernel finds the socket of later
ones without it. Ports that have a listener of their own keep it.

The messages are those of nfnetlink (linux/netfilter/nf_tables.h): one batch, which the kernel takes
as a whole or refuses as a whole.
"""

import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from .namespaces import LISTEN_BACKLOG
from .netlink import attribute

# The names of the sockets at the hand-over.
EVERY_PORT: Final = ("tcp4:*", "tcp6:*")

_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_NETLINK_NETFILTER: Final = 12
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ERROR = struct.Struct("=i")
_GENERIC = struct.Struct("!BBH")  # family, version, subsystem
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NLMSG_ERROR: Final = 2
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES: Final = 10
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 3, 6

_NAME: Final = b"cage\0"  # of the table and of its chain
_PREROUTING, _MANGLE_PRIORITY = 0, -150
_VERDICT_REGISTER, _REGISTER = 0, 1
_EQUAL, _NOT_EQUAL = 0, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_TRANSPORT_PROTOCOL: Final = 16
_FLAGS_AT, _SYN_OR_ACK, _SYN = 13, b"\x12", b"\x02"
_TCP: Final = b"\x06"
_PORT_AT: Final = 2


class _Family(NamedTuple):
    """One version of IP: the numbers of its sockets and tables, and where a packet has its
    destination address."""

    name: str
    number: int
    table: int
    address_at: int
    address_size: int


_FAMILIES: Final = (
    _Family(EVERY_PORT[0], socket.AF_INET, 2, 16, 4),
    _Family(EVERY_PORT[1], socket.AF_INET6, 10, 24, 16),
)


def listen_on_every_port(
    networks: Sequence[str], listened: Sequence[int]
) -> dict[str, socket.socket]:
    """Open listeners in this network namespace that get the connections to every port of
    `networks` (ADDRESS/PREFIX) but `listened`; return none if the kernel lacks tproxy.

    Both have the same port, which a program may also connect to at any other address.
    """
    sockets: dict[str, socket.socket] = {}
    port = 0
    try:
        for family in _FAMILIES:
            sockets[family.name] = _listener(family, port)
            port = sockets[family.name].getsockname()[1]
            own = [masked(network) for network in networks if _is_of(family, network)]
            _install(family, own, listened, port)
    except OSError:
        for sock in sockets.values():
            sock.close()
        return {}
    return sockets


def _is_of(family: _Family, network: str) -> bool:
    return (family.number == socket.AF_INET6) == (":" in network)


def masked(network: str) -> tuple[bytes, bytes]:
    """Return the address and the mask of a network."""
    text, _, prefix = network.partition("/")
    address = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    bits = len(address) * 8
    mask = ((1 << bits) - 1) ^ ((1 << (bits - int(prefix))) - 1)
    return address, mask.to_bytes(len(address), "big")


def _listener(family: _Family, port: int) -> socket.socket:
    listener = socket.socket(family.number, socket.SOCK_STREAM)
    try:
        if family.number == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        listener.bind(("", port))
        listener.listen(LISTEN_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _install(
    family: _Family, networks: Sequence[tuple[bytes, bytes]], listened: Sequence[int], port: int
) -> None:
    """Put the rules of one family into this network namespace; raises OSError."""
    rules = [
        [_protocol(), _compare(_NOT_EQUAL, _TCP), _accept()],
        [
            _load(_TRANSPORT_HEADER, _FLAGS_AT, 1),
            _mask(_SYN_OR_ACK),
            _compare(_NOT_EQUAL, _SYN),
            _accept(),
        ],
    ]
    for other in listened:
        own = _compare(_EQUAL, other.to_bytes(2, "big"))
        rules.append([_load(_TRANSPORT_HEADER, _PORT_AT, 2), own, _accept()])
    for address, mask in networks:
        rules.append(
            [
                _load(_NETWORK_HEADER, family.address_at, family.address_size),
                _mask(mask),
                _compare(_EQUAL, address),
                _immediate(port.to_bytes(2, "big")),
                _tproxy(family),
                _accept(),
            ]
        )
    table = attribute(1, _NAME)
    hook = attribute(4, _number(1, _PREROUTING) + _number(2, _MANGLE_PRIORITY))
    chain = table + attribute(3, _NAME) + hook + attribute(7, b"filter\0")
    messages = [(_NEW_TABLE, _CREATE, table), (_NEW_CHAIN, _CREATE, chain)]
    for rule in rules:
        body = table + attribute(2, _NAME) + attribute(4, b"".join(rule))
        messages.append((_NEW_RULE, _CREATE | _APPEND, body))
    _send(family.table, messages)


def _send(table: int, messages: Sequence[tuple[int, int, bytes]]) -> None:
    """Send one batch, and wait until the kernel has answered each message; raises OSError."""
    batch = [_message(_BATCH_BEGIN, 0, 0, _GENERIC.pack(0, 0, _NFTABLES))]
    for number, (kind, flags, body) in enumerate(messages, 1):
        header = _GENERIC.pack(table, 0, 0)
        batch.append(_message(_NFTABLES << 8 | kind, flags | _ACK, number, header + body))
    batch.append(_message(_BATCH_END, 0, 0, _GENERIC.pack(0, 0, _NFTABLES)))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.bind((0, 0))
        netlink.send(b"".join(batch))
        answered = 0
        while answered < len(messages):
            answered += _check(netlink.recv(65536))


def _check(answers: bytes) -> int:
    """Return the number of messages that are answered; raises the OSError of one."""
    count, offset = 0, 0
    while offset + _HEADER.size <= len(answers):
        length, kind, _, _, _ = _HEADER.unpack_from(answers, offset)
        (error,) = _ERROR.unpack_from(answers, offset + _HEADER.size)
        if kind != _NLMSG_ERROR or error:
            raise OSError(-error or 71, os.strerror(-error or 71))
        count += 1
        offset += length + -length % 4
    return count


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, number, 0) + body


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!i", value))


def _value(kind: int, value: bytes) -> bytes:
    return attribute(kind, attribute(1, value))


def _expression(name: bytes, *data: bytes) -> bytes:
    named = attribute(1, name + b"\0") + attribute(2, b"".join(data))
    return attribute(1, named)


def _protocol() -> bytes:
    return _expression(b"meta", _number(1, _REGISTER), _number(2, _TRANSPORT_PROTOCOL))


def _load(header: int, offset: int, length: int) -> bytes:
    where = (_number(2, header), _number(3, offset), _number(4, length))
    return _expression(b"payload", _number(1, _REGISTER), *where)


def _mask(mask: bytes) -> bytes:
    registers = (_number(1, _REGISTER), _number(2, _REGISTER), _number(3, len(mask)))
    return _expression(b"bitwise", *registers, _value(4, mask), _value(5, bytes(len(mask))))


def _compare(operation: int, value: bytes) -> bytes:
    return _expression(b"cmp", _number(1, _REGISTER), _number(2, operation), _value(3, value))


def _immediate(value: bytes) -> bytes:
    return _expression(b"immediate", _number(1, _REGISTER), _value(2, value))


def _accept() -> bytes:
    verdict = attribute(2, attribute(2, _number(1, 1)))
    return _expression(b"immediate", _number(1, _VERDICT_REGISTER), verdict)


def _tproxy(family: _Family) -> bytes:
    return _expression(b"tproxy", _number(1, family.table), _number(3, _REGISTER))
