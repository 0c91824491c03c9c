"""Bytes from one transport to another: as they come, with backpressure, half-closes passed on.

Rules of this file: what was read is held until it is sent, and nothing more is read meanwhile
(that is the backpressure); the end of one direction is passed on as a shutdown and leaves the other
open; no direction waits, so both share one task and one buffer; a relay that is cut (the session
ends, a bug) still says what moved, because its counts are plain attributes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.proxy.limits import BULK_AFTER, MAX_HELD, RELAY_BUFFER, SMALL_READ, TURN_BYTES
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.transport.transport import Transport

    LookAtBytes: TypeAlias = Callable[[bytes | memoryview], bool]
    """Looks at bytes on their way; whether it needs no more of them. What it raises ends the
    relay, and these bytes go nowhere."""

PEER_ENDED: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})


class RelayBuffer:
    """The one buffer of a proxy. It is only used between a read and a write without a pause."""

    def __init__(self) -> None:
        self.space = memoryview(bytearray(RELAY_BUFFER))
        self.held = 0
        """Bytes that were read and could not be sent yet, over all relays."""


class Direction:
    """Bytes from one end to the other. `moved` counts what was sent; `done` once the source has
    ended and nothing is left to send; `look` is told all bytes before they are sent, until it has
    seen enough."""

    __slots__ = ("_buffer", "_held", "done", "look", "moved", "sink", "source")

    def __init__(self, source: Transport, sink: Transport, buffer: RelayBuffer) -> None:
        self.source = source
        self.sink = sink
        self.moved = 0
        self.done = False
        self.look: LookAtBytes | None = None
        self._buffer = buffer
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
        buffer, receive = self._buffer, self.source.try_receive_into
        while self.moved < stop:
            is_bulk = self.moved >= BULK_AFTER and buffer.held < MAX_HELD
            count = receive(buffer.space, RELAY_BUFFER if is_bulk else SMALL_READ)
            if not count:
                self.done = count == 0
                return False
            if not self._send(buffer.space[:count]):
                return False
        return True

    def release(self) -> None:
        """Drop what is held; for the end of a relay that was cut."""
        self._buffer.held -= len(self._held)
        self._held = b""

    def _send(self, piece: memoryview) -> bool:
        """Send all of it, or hold the rest; whether all was sent."""
        if self.look is not None and self.look(piece):
            self.look = None
        sent = self.sink.try_send(piece)
        self.moved += sent
        if sent == len(piece):
            return True
        self._held = bytes(piece[sent:])
        self._buffer.held += len(self._held)
        return False

    def _send_held(self) -> bool:
        sent = self.sink.try_send(self._held)
        self.moved += sent
        self._buffer.held -= sent
        self._held = self._held[sent:]
        return not self._held


class Relay:
    """Both directions between two ends. `closed_by` is "shutdown" until something else has ended
    it."""

    __slots__ = ("_first_ended", "_near", "closed_by", "down", "up")

    def __init__(self, near: Transport, far: Transport, buffer: RelayBuffer) -> None:
        self.up = Direction(near, far, buffer)
        self.down = Direction(far, near, buffer)
        self.closed_by: ClosedBy = "shutdown"
        self._near = near
        self._first_ended: Direction | None = None

    async def run(self, pause: Callable[[], Awaitable[None]]) -> None:
        """Move bytes until both directions have ended or a side broke; `pause` waits until either
        transport is ready. Raises what `pause` and the directions' `look` raise. Both transports
        are left to the caller, also if cancelled.
        """
        up, down, near = self.up, self.down, self._near
        try:
            while True:
                more = up.pump()
                more = down.pump() or more
                if (up.done or down.done) and self._pass_ends():
                    self.closed_by = self._ended_by() or "client"
                    return
                if more:
                    await trio.lowlevel.checkpoint()
                elif near.failed:  # not seen by who waits for the far end to take bytes
                    self.closed_by = self._ended_by() or near.side
                    return
                else:
                    await pause()
        except SideFailed as failure:
            self.closed_by = self._ended_by() or _blamed(failure)

    def release(self) -> None:
        """Drop what is held; for the end, however it came."""
        self.up.release()
        self.down.release()

    def _pass_ends(self) -> bool:
        """Pass on the first direction's end; the second's, when True is returned, goes out with
        the transports' close."""
        if self.up.done and self.down.done:
            return True
        if self._first_ended is None:
            self._first_ended = self.up if self.up.done else self.down
            self._first_ended.sink.shutdown()
        return False

    def _ended_by(self) -> ClosedBy | None:
        return None if self._first_ended is None else self._first_ended.source.side


def _blamed(failure: SideFailed) -> ClosedBy:
    """The side that ended the connection, or "error" if the network between did."""
    return failure.side if failure.errno in PEER_ENDED else "error"
