"""Accepted connections: each with its socket, unread bytes and one deadline, all in one table.

Rules of this file: a client has one deadline at a time, and the table's sweep enforces it by waking
the task: reading the clock for every wait and a cancel scope for each would cost 6 us of a tunnel's
100, so a deadline may be off by one sweep either way. A client that has not shown that it may be
served loses its place before one that has, and the oldest loses it first: other programs of the
machine may reach the listener, and a started head costs them nothing.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.proxy.transport.epoll import Waker
from nono_trio.proxy.transport.transport import TcpTransport

if TYPE_CHECKING:
    import socket

    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.proxy.transport.epoll import Readiness
    from nono_trio.proxy.transport.transport import Transport

MAX_DISCARDED: Final = 16 * 1024 * 1024  # bytes thrown away while the peer reads our last answer


class Expired(Exception):
    """The client's deadline has passed, or its place is needed by another one."""


class Client:
    """A client connection, served by one task."""

    __slots__ = (
        "_table",
        "_waker",
        "deadline",
        "dropped",
        "expired",
        "idle",
        "origin",
        "proven",
        "tcp",
        "transport",
        "unread",
    )

    def __init__(self, sock: socket.socket, readiness: Readiness, table: ClientTable) -> None:
        self._waker = Waker()
        self.tcp = TcpTransport(sock, "client", self._waker, readiness)
        """The accepted connection. Its `waker` wakes the client's task; the upstream's transport
        has the same one."""
        self.transport: Transport = self.tcp
        """Requests are read from it and answered on it. It is `tcp` until TLS is put over that."""
        self.origin: RecordOrigin | None = None
        """Whose socket it is, for the record of what it asks for."""
        self.unread = b""
        self.deadline = math.inf
        self.expired = False
        self.idle = False
        """No byte of a request has arrived, so the connection may be closed to make room."""
        self.proven = False
        """It may be served: it has shown the token, or only the caged command can reach its
        listener."""
        self.dropped = False
        """Its place was given away, so its next wait raises Expired."""
        self._table = table

    def expire_in(self, seconds: float) -> None:
        """Replace the deadline: `seconds` from the last sweep, `math.inf` for none."""
        self.deadline = self._table.now + seconds
        self.expired = self.dropped

    def expire(self) -> None:
        """Make the task's next pause, or the one it is in, raise Expired."""
        self.deadline = math.inf
        self.expired = True
        self._waker.wake()

    def drop(self) -> None:
        """Give its place away: its next pause raises Expired."""
        self.dropped = True
        self.expire()

    def prove(self) -> None:
        """Note that it may be served; it keeps its place even if that was just given away."""
        self.proven = True
        if self.dropped:
            self.dropped = self.expired = False
        self._table.prove(self)

    async def pause(self, seconds: float | None = None) -> None:
        """Wait until the client's transport or its upstream's is ready. `seconds` sets a new
        deadline. Raises Expired, and OSError when the system has no room for another socket."""
        if seconds is not None:  # `expire_in`, without a call for each wait
            self.deadline = self._table.now + seconds
            self.expired = self.dropped
        if not self.tcp.is_registered:
            self.tcp.register()
        if not self.expired:
            await self._waker.sleep()
        if self.expired:
            raise Expired

    async def receive(self) -> bytes:
        """Wait for bytes; b"" at the end. Raises OSError and Expired; loses no byte."""
        while (data := self.transport.try_receive()) is None:
            await self.pause()
        return data

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError and Expired; if cancelled, a part may be sent."""
        sent = self.transport.try_send(data)
        while sent < len(data):
            await self.pause()
            sent += self.transport.try_send(data[sent:])

    async def drain(self, seconds: float, last: bytes = b"") -> None:
        """Send `last`, end our direction, and discard what the peer still sends.

        A close with unread bytes would reset the connection, and the reset can overtake the answer
        (RFC 9112 9.6). Returns at the peer's end or after `seconds`; raises only Cancelled.
        """
        self.expire_in(seconds)
        with suppress(OSError, Expired):
            await self.send(last)
            self.transport.shutdown()
            discarded = 0
            while discarded < MAX_DISCARDED and (data := await self.receive()):
                discarded += len(data)
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As `Transport.close`."""
        self.transport.close()


class ClientTable:
    """The clients that are being served, and the time that their deadlines count from."""

    def __init__(self) -> None:
        self.now = 0.0
        """trio's time at the last sweep. Deadlines count from it."""
        self.members: dict[Client, None] = {}
        """All clients that are served, the oldest first. Only the methods change it."""
        self._unproven: dict[Client, None] = {}

    def add(self, client: Client) -> None:
        """Add a client."""
        self.members[client] = None
        if not client.proven:
            self._unproven[client] = None

    def prove(self, client: Client) -> None:
        """Keep the client, which may be served; one whose place was given away is added again."""
        self.members[client] = None
        self._unproven.pop(client, None)

    def discard(self, client: Client) -> None:
        """Remove a client, if it is still there."""
        self.members.pop(client, None)
        self._unproven.pop(client, None)

    def make_room(self) -> bool:
        """Drop the oldest client that has not shown that it may be served, or else the oldest idle
        one. Returns False if there is neither."""
        for client in self._unproven:
            self._drop(client)
            return True
        return self.drop_idle()

    def drop_idle(self) -> bool:
        """Drop the oldest idle connection. Returns False if no connection is idle."""
        for client in self.members:
            if client.idle:
                self._drop(client)
                return True
        return False

    def sweep(self, now: float) -> None:
        """Set the time, and end the waits of all clients whose deadline has passed."""
        self.now = now
        for client in self.members:
            if client.deadline <= now:
                client.expire()

    def _drop(self, client: Client) -> None:
        self.discard(client)
        client.drop()
