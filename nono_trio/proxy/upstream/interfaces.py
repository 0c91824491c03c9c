"""The interfaces of resolver and dialler, and the addresses that pass between them.

Both are protocols, so that a test can use a fake of twenty lines (`nono_trio.testing`).

A connection's socket is a `socket.SocketType`. That is all of `socket.socket` but its Python code,
which makes opening and closing one cost 1.4 us more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


class CheckedAddress(msgspec.Struct, frozen=True):
    """An IP address and port that may be dialled.

    Only the resolver makes one (a test holds it): after policy has allowed the address for a host
    and port, or for the upstream proxy that the user has named. A dialler takes no other type, so
    no unchecked address can be dialled.
    """

    address: str
    port: int


class ResolveFailed(Exception):
    """A name has no address; `reason` is one printable sentence without a full stop.

    `unknown`: the name does not exist. Otherwise no server gave an answer.
    """

    def __init__(self, reason: str, *, unknown: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unknown = unknown


class DialFailed(Exception):
    """No address answered. `status` is 502, or 504 after a timeout. `hint` goes into the answer to
    the client, after the reason."""

    def __init__(self, reason: str, status: int = 502, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.hint = hint


class Resolver(Protocol):
    """Turns a canonical name into addresses, which are then checked."""

    async def __call__(self, name: str) -> Sequence[str]:
        """Return all addresses of `name`, best first; no search domain is appended to it. Raises
        ResolveFailed. Can be cancelled at any time."""
        ...

    async def in_hosts_file(self, name: str) -> Sequence[str]:
        """Return the addresses that the system's hosts file has for `name`, mostly no address. Can
        be cancelled at any time."""
        ...


class Dialler(Protocol):
    """Opens a TCP connection to one of some addresses."""

    async def __call__(self, addresses: Sequence[CheckedAddress]) -> tuple[socket.SocketType, str]:
        """Return a connected non-blocking socket, and the IP address that it reached.

        Raises DialFailed. If cancelled, every socket it opened is closed.
        """
        ...
