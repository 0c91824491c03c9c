"""Packet sockets that receive the attempts that no other socket of ours sees.

The kernel itself refuses a connection to a port without a listener, and every datagram but DNS, at
once. Without these sockets the attempt (`ssh -p 2222`, UDP to port 123) would leave no record, and
no hint could name the port. A filter (packet_filter.py) passes the first packet of a connection and
each datagram, cut to its headers. For the packets of an open connection it runs a dozen
instructions and copies nothing.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..addresses import DNS_PORT
from .packet_filter import attach, refusals, refused_attempts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_IGNORE_OUTGOING: Final = 23
LOOPBACK_LINK: Final = "lo"
# The names of the sockets at the hand-over.
CAPTURE: Final = "refused"
LOOPBACK_CAPTURE: Final = "refused-loopback"
_BUFFER: Final = 256 << 10  # a port scan can overflow it; lost packets are counted


def refused_packets(
    listened: Iterable[int], networks: Sequence[tuple[bytes, bytes]] = ()
) -> socket.socket | None:
    """Open a socket for this network namespace, which gets connections to other ports than
    `listened` and datagrams; return None if the kernel lacks packet sockets.

    `networks`: addresses with masks, of which every port has a listener. Their connections must not
    fill the buffer.
    """
    return _capture(refused_attempts([*listened], DNS_PORT, networks))


def refused_loopback() -> socket.socket | None:
    """Open a socket for loopback of this network namespace, which gets the kernel's refusals of
    connections; return None if the kernel lacks packet sockets."""
    return _capture(refusals(), LOOPBACK_LINK)


def _capture(program: Sequence[bytes], link: str = "") -> socket.socket | None:
    sock = None
    try:
        # Without a link it covers all links, also later ones. A packet that comes before the
        # filter is attached can't be the command's, which is not there yet.
        protocol = 0 if link else socket.htons(_ETH_P_ALL)
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, protocol)
        attach(sock, program)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        with suppress(OSError):  # Linux 4.20: spares the copy; the filter drops what is outgoing
            sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        if link:
            sock.bind((link, _ETH_P_ALL))
    except OSError:
        if sock is not None:
            sock.close()
        return None
    return sock
