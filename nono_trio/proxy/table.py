"""The table of clients: who is there, whose time is up, whose place can be given away.

Rules of this file: time is told by the sweep, which looks at all deadlines at once. Reading the
clock for every wait and a cancel scope for each would cost 6 us of a tunnel's 100; a deadline may
instead be off by one sweep either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nono_trio.proxy.client import Client


class ClientTable:
    """All clients that are being served, the oldest first."""

    def __init__(self) -> None:
        self.now = 0.0
        """trio's time at the last sweep; deadlines are set from here."""
        self._clients: dict[Client, None] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """Take a client in."""
        self._clients[client] = None

    def discard(self, client: Client) -> None:
        """Let a client go, if it is still in."""
        self._clients.pop(client, None)

    def drop_idle(self) -> bool:
        """Give up the oldest connection on which nothing was asked; False if there is none."""
        for client in self._clients:
            if client.idle:
                del self._clients[client]
                client.expire()
                return True
        return False

    def sweep(self, now: float) -> None:
        """Set the time, and end the waits of all whose deadline has passed."""
        self.now = now
        for client in self._clients:
            if client.deadline <= now:
                client.expire()
