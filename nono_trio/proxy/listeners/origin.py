"""The two ends of an accepted connection, as its client sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from nono_trio.core.net.endpoints import Endpoints

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import trio

    OriginOf: TypeAlias = Callable[[socket.SocketType, Any], Endpoints | None]
    """Returns the ends of an accepted connection, from its socket and its client's address."""


def origin_of(sock: socket.SocketType | trio.socket.SocketType) -> Endpoints | None:
    """Return the ends of an accepted TCP connection; None if it is gone, or is not TCP."""
    try:
        peer, own = sock.getpeername(), sock.getsockname()
    except OSError:
        return None
    return _between(peer, own)


def origins_at(listener: socket.socket) -> OriginOf:
    """Return what tells the ends of the connections of one listener. Most listeners are bound to
    one address, which is looked up once."""
    own = listener.getsockname()
    if not isinstance(own, tuple) or own[0] in ("0.0.0.0", "::"):
        return lambda sock, peer: _between(peer, sock.getsockname())
    server, server_port = _without_zone(own[0]), own[1]

    def origin(_: socket.SocketType, peer: Any) -> Endpoints:  # noqa: ANN401  (as accept(2) gives it)
        address = peer[0]
        if "%" in address:
            address = _without_zone(address)
        return Endpoints("tcp", address, peer[1], server, server_port)

    return origin


def _between(peer: object, own: object) -> Endpoints | None:
    """The ends, from the socket addresses of the client and of the server."""
    if not isinstance(peer, tuple) or not isinstance(own, tuple):
        return None  # a unix socket of a test
    return Endpoints("tcp", _without_zone(peer[0]), peer[1], _without_zone(own[0]), own[1])


def _without_zone(address: str) -> str:
    """The zone of a link-local address is the interface's, not the address'."""
    return address.partition("%")[0]
