"""The table of clients: who is there, whose time is up, whose place can be given away.

Rules of this file: time is told by the sweep, which looks at all deadlines at once. Reading the
clock for every wait and a cancel scope for each would cost 6 us of a tunnel's 100; a deadline may
instead be off by one sweep either way. A place goes from those who have shown no right to it before
it goes from those who have, and the oldest loses it first: others on the machine may reach the
listener, and a started head costs them nothing.
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
        self._unproven: dict[Client, None] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """Take a client in."""
        self._clients[client] = None
        if not client.proven:
            self._unproven[client] = None

    def prove(self, client: Client) -> None:
        """The client may be served: it keeps its place, or gets it back."""
        self._clients[client] = None
        self._unproven.pop(client, None)

    def discard(self, client: Client) -> None:
        """Let a client go, if it is still in."""
        self._clients.pop(client, None)
        self._unproven.pop(client, None)

    def make_room(self) -> bool:
        """Give up the oldest client that has not shown that it may be served, else the oldest on
        which nothing was asked; False if there is neither."""
        for client in self._unproven:
            self._drop(client)
            return True
        return self.drop_idle()

    def drop_idle(self) -> bool:
        """Give up the oldest connection on which nothing was asked; False if there is none."""
        for client in self._clients:
            if client.idle:
                self._drop(client)
                return True
        return False

    def sweep(self, now: float) -> None:
        """Set the time, and end the waits of all whose deadline has passed."""
        self.now = now
        for client in self._clients:
            if client.deadline <= now:
                client.expire()

    def _drop(self, client: Client) -> None:
        self.discard(client)
        client.drop()
