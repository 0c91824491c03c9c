"""Accepted connections: each with its socket, unread bytes and one deadline, all in one table.

Rules of this file: a socket is tried before it is waited for. A client has one deadline at a time,
and the table's sweep enforces it by waking the task: reading the clock for every wait and a cancel
scope for each would cost 6 us of a tunnel's 100, so a deadline may be off by one sweep either way.
A client that has shown no right to its place loses it before one that has, and the oldest loses it
first: other programs of the machine may reach the listener, and a started head costs them nothing.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.proxy.limits import READ_HEAD
from nono_trio.proxy.transport.epoll import Waker

if TYPE_CHECKING:
    from nono_trio.proxy.transport.epoll import Readiness, Watch

MAX_DISCARDED: Final = 16 * 1024 * 1024  # bytes thrown away while the peer reads our last answer

# Where the answer can't be made to wait, it goes out by itself: one packet more.
if sys.platform == "linux":
    _MORE: Final = socket.MSG_MORE
else:
    _MORE: Final = 0
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: on, wait 0 seconds


class Expired(Exception):
    """The client's deadline has passed, or its place is needed by another one."""


class Client:
    """A client connection, served by one task."""

    __slots__ = (
        "_readiness",
        "_table",
        "_watch",
        "deadline",
        "dropped",
        "expired",
        "idle",
        "proven",
        "sock",
        "unread",
        "waker",
    )

    def __init__(self, sock: socket.socket, readiness: Readiness, table: ClientTable) -> None:
        self.sock = sock
        self.waker = Waker()
        self.unread = b""
        self.deadline = math.inf
        self.expired = False
        self.idle = False
        """Nothing of a request is here, so the connection may be closed for another's sake."""
        self.proven = False
        """It has shown that it may be served: by the token, or by where it came in."""
        self.dropped = False
        """Its place was given away, so it may not wait for anything any more."""
        self._readiness = readiness
        self._table = table
        self._watch: Watch | None = None

    @property
    def watch(self) -> Watch:
        """The socket's place in the readiness table, made when it is first needed."""
        return self.register()

    def register(self) -> Watch:
        """Take a place in the readiness table. Raises OSError when the system has no room."""
        if self._watch is None:
            self._watch = self._readiness.watch(self.sock, "client", self.waker)
        return self._watch

    def expire_in(self, seconds: float) -> None:
        """Replace the deadline: `seconds` from the last sweep, `math.inf` for none."""
        self.deadline = self._table.now + seconds
        self.expired = self.dropped

    def expire(self) -> None:
        """Make the task's next pause, or the one it is in, raise Expired."""
        self.deadline = math.inf
        self.expired = True
        self.waker.wake()

    def drop(self) -> None:
        """Its place is given away: no deadline is kept for it, so it ends at its next pause."""
        self.dropped = True
        self.expire()

    def prove(self) -> None:
        """It may be served, also if its place was given away at this moment."""
        self.proven = True
        if self.dropped:
            self.dropped = self.expired = False
        self._table.prove(self)

    async def pause(self) -> None:
        """Wait until something happens to a socket of this client's. Raises Expired."""
        if self._watch is None:
            self.register()
        if not self.expired:
            await self.waker.sleep()
        if self.expired:
            raise Expired

    def try_receive(self) -> bytes | None:
        """What is there, b"" at the end, None if nothing is there yet. Raises OSError."""
        try:
            return self.sock.recv(READ_HEAD)
        except BlockingIOError:
            return None

    async def receive(self) -> bytes:
        """Wait for bytes; b"" at the end. Raises OSError and Expired; loses no byte."""
        while (data := self.try_receive()) is None:
            await self.pause()
        return data

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError and Expired; if cancelled, a part may be sent."""
        sent = self.try_send(data)
        while sent < len(data):
            self._readiness.want_write(self.watch)
            sent += self.try_send(data[sent:])
            if sent < len(data):
                await self.pause()

    def try_send(self, data: bytes) -> int:
        """Send what fits. Raises OSError."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def send_last(self, data: bytes) -> None:
        """Send what fits of an answer just before `close`. Raises OSError.

        With MSG_MORE the answer waits for the close and leaves with its FIN: one packet instead of
        two, and the peer wakes up once.
        """
        with suppress(BlockingIOError):
            self.sock.send(data, _MORE)

    async def drain(self, seconds: float, last: bytes = b"") -> None:
        """Send `last`, say that nothing more comes, and throw away what the peer still sends.

        Closing with unread bytes would reset the connection, and the reset can overtake the answer
        (RFC 9112 9.6). Ends when the peer does, or after `seconds`; raises only Cancelled.
        """
        self.expire_in(seconds)
        with suppress(OSError, Expired):
            await self.send(last)
            self.sock.shutdown(socket.SHUT_WR)
            discarded = 0
            while discarded < MAX_DISCARDED and (data := await self.receive()):
                discarded += len(data)
                await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Make `close` a reset: the peer must not take what it has for all there is."""
        reset(self.sock)

    def close(self) -> None:
        """Give up the socket; what was sent still reaches the peer if it has sent nothing more."""
        if self._watch is not None:
            self._readiness.forget(self._watch)
        self.sock.close()


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


def reset(sock: socket.socket) -> None:
    """Make the socket's `close` a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
