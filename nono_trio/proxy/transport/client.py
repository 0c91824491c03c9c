"""Accepted connections: each with its socket, unread bytes and one deadline, all in one table.

Rules of this file: a client has one deadline at a time, and the table's sweep enforces it by waking
its connection: reading the clock for every wait and a cancel scope for each would cost 6 us of a
tunnel's 100, so a deadline may be off by one sweep either way. A client that has not shown that it
may be served loses its place before one that has, and the oldest loses it first: other programs of
the machine may reach the listener, and a started head costs them nothing. A client without a place
may come to have one again when it shows that it may be served; no more have one than there are
places.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.steps import turn
from nono_trio.waker import Waker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.proxy.transport.epoll import Readiness
    from nono_trio.proxy.transport.transport import Transport

MAX_DISCARDED: Final = 16 * 1024 * 1024  # bytes thrown away while the peer reads our last answer


class Expired(Exception):
    """The client's deadline has passed, or its place is needed by another one."""


class Client:
    """A client connection, served by one coroutine (steps.py)."""

    __slots__ = (
        "_table",
        "_waker",
        "deadline",
        "dropped",
        "expired",
        "has_place",
        "idle",
        "origin",
        "proven",
        "tcp",
        "transport",
        "unread",
    )

    def __init__(
        self,
        sock: socket.SocketType,
        readiness: Readiness,
        table: ClientTable,
        origin: RecordOrigin | None = None,
    ) -> None:
        self._waker = waker = Waker()
        self.tcp = tcp = TcpTransport(sock, "client", waker, readiness)
        """The accepted connection. Its `waker` wakes the client's task; the upstream's transport
        has the same one."""
        self.transport: Transport = tcp
        """Requests are read from it and answered on it. It is `tcp` until TLS is put over that."""
        self.origin = origin
        """The origin of the socket, for the records of its requests."""
        self.unread = b""
        self.deadline = math.inf
        self.expired = False
        self.idle = False
        """No byte of a request has arrived, so the connection may be closed to make room."""
        self.proven = False
        """It may be served: it has shown the token, or only the caged command can reach its
        listener."""
        self.dropped = False
        """It was dropped from the table, so its next wait raises Expired."""
        self.has_place = False
        """It counts against the limit of connections; one without a place is refused."""
        self._table = table

    def expire_in(self, seconds: float) -> None:
        """Replace the deadline: `seconds` from the last sweep, `math.inf` for none."""
        self.deadline = self._table.now + seconds
        self.expired = self.dropped

    def expire(self) -> None:
        """Make the connection's next pause, or the one it is in, raise Expired."""
        self.deadline = math.inf
        self.expired = True
        self._waker.wake()

    def drop(self) -> None:
        """Give its place away: its next pause raises Expired."""
        self.dropped = True
        self.expire()

    def prove(self) -> bool:
        """Note that it may be served, even if it was just dropped; return whether it has a place.

        Without one it asks for the place of a client that has not shown as much, or is idle."""
        return self._table.prove(self)

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

    async def pause_while(self, look: Callable[[], bool], seconds: float) -> None:
        """`pause(seconds)` again and again, until `look`, which is called after each, returns
        False. Raises what it raises, too."""
        self.expire_in(seconds)
        if not self.tcp.is_registered:
            self.tcp.register()
        if not self.expired:
            await self._waker.sleep_while(partial(self._must_wait, look, seconds))
        if self.expired:
            raise Expired

    def _must_wait(self, look: Callable[[], bool], seconds: float) -> bool:
        if self.expired or not look():
            return False
        self.deadline = self._table.now + seconds
        return True

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
                await turn()

    async def finish(self, seconds: float) -> None:
        """Wait until our end can go out with `close`, `seconds` from one time that the client is
        ready to the next. Raises only Cancelled."""
        with suppress(OSError, Expired):
            while not self.transport.finish():
                await self.pause(seconds)

    def close(self) -> None:
        """As `Transport.close`."""
        self.transport.close()


class ClientTable:
    """The clients that are being served or refused, and the time that their deadlines count from.

    `places`: as many may be served at a time."""

    def __init__(self, places: int) -> None:
        self.now = 0.0
        """trio's time at the last sweep. Deadlines count from it."""
        self.members: dict[Client, None] = {}
        """All clients, the oldest first. Only the methods change it."""
        self._unproven: dict[Client, None] = {}
        self._free_places = places

    def add(self, client: Client) -> bool:
        """Add a client that has shown nothing yet, with a place if one can be had; return whether
        it has one."""
        has_place = self._take_place(client)
        self.members[client] = None
        self._unproven[client] = None
        return has_place

    def prove(self, client: Client) -> bool:
        """Keep the client, which may be served; one that was dropped is added again. Returns
        whether it has a place."""
        client.proven = True
        self._unproven.pop(client, None)
        if client.dropped:
            client.dropped = client.expired = False
            self.members[client] = None
        return client.has_place or self._take_place(client)

    def discard(self, client: Client) -> None:
        """Remove a client, if it is still there."""
        self.members.pop(client, None)
        if not client.proven:
            self._unproven.pop(client, None)
        if client.has_place:
            client.has_place = False
            self._free_places += 1

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

    def _take_place(self, client: Client) -> bool:
        """Give the client a place, if one is free or another client must leave its own."""
        if self._free_places <= 0 and not self._make_place():
            return False
        self._free_places -= 1
        client.has_place = True
        return True

    def _make_place(self) -> bool:
        """Free a place: as `make_room`, of the clients that have one."""
        for client in self._unproven:  # those without one are few: a full proxy accepts no more
            if client.has_place:
                self._drop(client)
                return True
        for client in self.members:
            if client.idle and client.has_place:
                self._drop(client)
                return True
        return False

    def _drop(self, client: Client) -> None:
        self.discard(client)
        client.drop()
