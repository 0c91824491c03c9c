"""Connections as they arrive at a listener: how they are accepted, and what they get.

Rules of this file: the dispatcher accepts, as a task's turn for each connection costs as much as a
denied request; what has to wait (room, descriptors) is left to the listener's own task.
"""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from nono_trio.proxy.listeners.origin import origins_at
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from nono_trio.proxy.connection_handler import ConnectionHandlerFactory
    from nono_trio.proxy.listeners.origin import OriginOf

    Admits: TypeAlias = Callable[[Any], bool]
    """Returns True if a connection from a socket address is served. It is called on the loop for
    each accepted connection, so it must neither wait nor raise."""
    Accept: TypeAlias = Callable[[], tuple[socket.SocketType, Any]]

# accept(2) reports an error that a connection had before it was accepted; the next one is fine.
ONE_CLIENT: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
    }
)


class Accepting(msgspec.Struct, frozen=True):
    """A listener and what its connections get. `is_commands`: no other program reaches it."""

    listener: socket.socket
    make_handler: ConnectionHandlerFactory
    handlers: trio.Nursery
    accept: Accept
    origin_of: OriginOf
    admits: Admits | None
    is_commands: bool


def accepting(
    listener: socket.socket,
    make_handler: ConnectionHandlerFactory,
    handlers: trio.Nursery,
    admits: Admits | None = None,
    *,
    is_commands: bool = True,
) -> Accepting:
    """Return a listener with what is looked up once."""
    return Accepting(
        listener,
        make_handler,
        handlers,
        _acceptor(listener),
        origins_at(listener),
        admits,
        is_commands,
    )


class Arrivals:
    """The connections of one listener. `accept` takes what waits, and returns False if something
    has to wait; then the listener's task goes on, from `wait`."""

    def __init__(self, accept: Callable[[], bool]) -> None:
        self._accept = accept
        self._waker = Waker()
        self._is_waiting = False

    def come(self) -> None:
        """For the dispatcher: connections have come. While the listener's task is at work, they are
        left to it."""
        if self._is_waiting and not self._accept():
            self._waker.wake()

    async def wait(self) -> None:
        """Wait until the listener's task must go on. Before, it must have accepted all."""
        self._is_waiting = True
        try:
            await self._waker.sleep()
        finally:
            self._is_waiting = False


def _acceptor(listener: socket.socket) -> Accept:
    """Return `listener.accept` with the listener's family and type looked up once.

    Both properties make an enum member on each access, a third of the cost of an accept. The type
    of the sockets is explained in upstream/interfaces.py.
    """
    family, kind = listener.family, listener.type

    def accept() -> tuple[socket.SocketType, Any]:
        descriptor, address = listener._accept()  # type: ignore[attr-defined]  # not in typeshed
        return socket.SocketType(family, kind, 0, descriptor), address

    return accept


def send_at_once(listener: socket.socket) -> None:
    """Have what is sent on its connections leave at once, without waiting for more."""
    with suppress(OSError):  # not TCP: it only costs speed
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def defer_accept(listener: socket.socket) -> None:
    """Have the kernel hand over a connection with its first bytes, or after about a second without
    any, so that the first read finds a head. For protocols in which the client speaks first."""
    if sys.platform == "linux":
        with suppress(OSError):  # not TCP, or a kernel without it: it only costs speed
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
