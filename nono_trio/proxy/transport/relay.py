"""Bytes from one socket to another: as they come, with backpressure, half-closes passed on.

Rules of this file: what was read is held until it is sent, and nothing more is read meanwhile
(that is the backpressure); the end of one direction is passed on as a shutdown and leaves the other
open; nothing here waits, so both directions of a tunnel can share one task and one buffer.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from nono_trio.proxy.limits import BULK_AFTER, MAX_HELD, RELAY_BUFFER, SMALL_READ, TURN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from nono_trio.proxy.transport.epoll import Readiness, Side, Watch

    Look: TypeAlias = Callable[[bytes | memoryview], bool]
    """Looks at bytes on their way; whether it needs no more of them. What it raises ends the
    tunnel, and these bytes go nowhere."""


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


class Direction:
    """Bytes from one end to the other. `moved` counts what was sent; `done` once the source has
    ended and nothing is left to send; `look` is told all bytes before they are sent, until it has
    seen enough."""

    __slots__ = ("_buffer", "_held", "_readiness", "done", "look", "moved", "sink", "source")

    def __init__(
        self, source: Watch, sink: Watch, buffer: RelayBuffer, readiness: Readiness
    ) -> None:
        self.source = source
        self.sink = sink
        self.moved = 0
        self.done = False
        self.look: Look | None = None
        self._buffer = buffer
        self._readiness = readiness
        self._held = b""

    def hold(self, early: bytes) -> None:
        """Take over what was read of the source before; it goes first. Raises what `look` does."""
        if self.look is not None and self.look(early):
            self.look = None
        self._held = early
        self._buffer.held += len(early)

    def pump(self) -> bool:
        """Move what can be moved without waiting; True if a turn's worth was moved and more may
        be there. Raises SideFailed, and what `look` does."""
        if self._held and not self._send_held():
            return False
        if self.done or not self.source.readable:
            return False
        stop = self.moved + TURN_BYTES
        while self._move_once():
            if self.moved >= stop:
                return True
        return False

    def release(self) -> None:
        """Drop what is held; for the end of a tunnel that was cut."""
        self._buffer.held -= len(self._held)
        self._held = b""

    def pass_end(self) -> None:
        """Tell the sink that the source has ended. Raises SideFailed."""
        try:
            self.sink.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise SideFailed(self.sink.side) from error

    def _move_once(self) -> bool:
        """Read once and send it; whether another read may find something and may be sent."""
        source, buffer = self.source, self._buffer
        bulk = self.moved >= BULK_AFTER and buffer.held < MAX_HELD
        room = RELAY_BUFFER if bulk else SMALL_READ
        try:
            count = source.sock.recv_into(buffer.space, room)
        except BlockingIOError:
            source.readable = False
            return False
        except OSError as error:
            raise SideFailed(source.side) from error
        if count == 0:
            self.done = True
            return False
        if count < room and not source.ending:
            source.readable = False  # a short read emptied the socket: epoll(7), edge-triggered
        if self.look is not None and self.look(buffer.space[:count]):
            self.look = None
        sent = self._try_send(buffer.space[:count])
        if sent == count:
            return source.readable
        self._held = bytes(buffer.space[sent:count])
        buffer.held += len(self._held)
        return False

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
            self._readiness.want_write(self.sink)
        self.moved += sent
        return sent
