"""The two ends of an accepted connection, as its client sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.net.endpoints import Endpoints

if TYPE_CHECKING:
    import socket

    import trio


def origin_of(sock: socket.socket | trio.socket.SocketType) -> Endpoints | None:
    """Return the ends of an accepted TCP connection; None if it is gone, or is not TCP."""
    try:
        peer, own = sock.getpeername(), sock.getsockname()
    except OSError:
        return None
    return between(peer, own)


def between(peer: object, own: object) -> Endpoints | None:
    """The same, from the socket addresses of the client and of the server."""
    if not isinstance(peer, tuple) or not isinstance(own, tuple):
        return None  # a unix socket of a test
    address, port, *_ = peer
    server, server_port, *_ = own
    if "%" in address:  # the zone of a link-local address is the interface's, not the address'
        address = address.partition("%")[0]
    return Endpoints("tcp", address, port, server.partition("%")[0], server_port)
