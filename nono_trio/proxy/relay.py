"""Bytes through a tunnel: both directions in one task, as they come, half-closes included.

Rules of this file: what was read is held until it is sent, and nothing more is read meanwhile
(that is the backpressure); the end of one direction is passed on as a shutdown and leaves the other
open; after TURN_BYTES other tasks get their turn.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal, TypeAlias

from nono_trio.proxy.limits import BULK_AFTER, MAX_HELD, RELAY_BUFFER, SMALL_READ, TURN_BYTES

if TYPE_CHECKING:
    from nono_trio.proxy.readiness import Readiness, Watch

Side: TypeAlias = Literal["client", "upstream"]


class SideFailed(Exception):
    """A socket of one side broke: reset, timed out, unreachable."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side: Side = side


class RelayBuffer:
    """The one buffer of a proxy. It is only used between a read and a write without a pause."""

    def __init__(self) -> None:
        self.space = memoryview(bytearray(RELAY_BUFFER))
        self.held = 0
        """Bytes that were read and could not be sent yet, over all tunnels."""


class End:
    """One socket of a tunnel, with its place in the readiness table and its side's name."""

    __slots__ = ("side", "sock", "watch")

    def __init__(self, side: Side, sock: socket.socket, watch: Watch) -> None:
        self.side: Side = side
        self.sock = sock
        self.watch = watch


class Direction:
    """Bytes from one end to the other. `moved` counts what was sent; `done` once its end was."""

    __slots__ = ("_buffer", "_held", "_readiness", "done", "moved", "sink", "source")

    def __init__(
        self, source: End, sink: End, buffer: RelayBuffer, readiness: Readiness, early: bytes
    ) -> None:
        self.source = source
        self.sink = sink
        self.moved = 0
        self.done = False
        self._buffer = buffer
        self._readiness = readiness
        self._held = early
        buffer.held += len(early)

    def pump(self) -> bool:
        """Move what can be moved without waiting; True if a turn's worth was moved and more may
        be there. Raises SideFailed."""
        stop = self.moved + TURN_BYTES
        while self.moved < stop:
            if self._held and not self._send_held():
                return False
            if not self.source.watch.readable or self.done:
                return False
            self._move_once()
        return True

    def release(self) -> None:
        """Drop what is held; for the end of a tunnel that was cut."""
        self._buffer.held -= len(self._held)
        self._held = b""

    def _move_once(self) -> None:
        watch, space = self.source.watch, self._buffer.space
        bulk = self.moved >= BULK_AFTER and self._buffer.held < MAX_HELD
        room = RELAY_BUFFER if bulk else SMALL_READ
        try:
            count = self.source.sock.recv_into(space, room)
        except BlockingIOError:
            watch.readable = False
            return
        except OSError as error:
            raise SideFailed(self.source.side) from error
        if count == 0:
            self._finish()
            return
        if count < room and not watch.ending:
            watch.readable = False  # a short read emptied the socket: epoll(7), edge-triggered
        self._send(space[:count])

    def _send(self, piece: memoryview) -> None:
        sent = self._try_send(piece)
        if sent < len(piece):
            self._held = bytes(piece[sent:])
            self._buffer.held += len(self._held)

    def _send_held(self) -> bool:
        sent = self._try_send(self._held)
        self._buffer.held -= sent
        self._held = self._held[sent:]
        return not self._held

    def _try_send(self, piece: memoryview | bytes) -> int:
        try:
            sent = self.sink.sock.send(piece)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise SideFailed(self.sink.side) from error
        if sent < len(piece):
            self._readiness.want_write(self.sink.watch)
        self.moved += sent
        return sent

    def _finish(self) -> None:
        self.done = True
        try:
            self.sink.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise SideFailed(self.sink.side) from error
