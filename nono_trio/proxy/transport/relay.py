"""Bytes from one transport to another: as they come, with backpressure, half-closes passed on.

Rules of this file:
- Bytes that were read are held until they are sent, and no more are read until then. That is the
  backpressure.
- The end of one direction is passed on as a shutdown and leaves the other direction open. A
  direction that has not ended is cut off for its sink too.
- No direction waits, so both share one coroutine and one buffer.
- Bytes between two TCP sockets that come in large pieces go through a pipe instead (splice.py),
  unless something of ours must see them. All rules hold for both ways.
- A relay that moves much at a time becomes a task: in a step of the dispatcher (steps.py) a
  millisecond of each of many tunnels would keep all other tasks waiting.
- The counts are plain attributes, so they are right for a relay that is cancelled, too.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.proxy.limits import (
    BULK_AFTER,
    MAX_HELD,
    RELAY_BUFFER,
    SMALL_READ,
    SPLICE_FROM,
    TURN_BYTES,
)
from nono_trio.proxy.transport.splice import PipePool, splice_between
from nono_trio.proxy.transport.transport import SideFailed
from nono_trio.steps import move_much, turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.transport.splice import Splice
    from nono_trio.proxy.transport.transport import Transport

    Rest: TypeAlias = Callable[[Callable[[], bool]], Awaitable[None]]
    """Calls what it gets each time that either transport is ready, until that returns False."""
    LookAtBytes: TypeAlias = Callable[[bytes | memoryview], bool]
    """Gets bytes before they are sent, and returns True if it needs no more of them. An exception
    ends the relay, and these bytes are not sent."""


class Sieve(Protocol):
    """Gets all bytes before they are sent, and says which of them may go, in their order. An
    exception ends the relay; what was not returned is not sent."""

    @property
    def unrecorded(self) -> Sequence[str]:
        """What must be recorded before more may go."""
        ...

    def take(self, data: bytes) -> bytes:
        """Take bytes; return those that may go now."""
        ...

    def ready(self) -> bytes:
        """Return bytes that may go now."""
        ...


# How much a direction has moved; combined by `|` for both.
LITTLE: Final = 0  # its first BULK_AFTER bytes too, however many come at a time
MUCH: Final = 1  # SPLICE_FROM bytes or more
MORE: Final = 3  # and there may be more

SIEVED: Final = 64 * 1024  # bytes of one read that a sieve gets, for other tasks to get a turn
PEER_ENDED: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})


class RelayBuffer:
    """The one buffer of a proxy, and its pipes. The buffer is only used between a read and a write
    without a pause."""

    def __init__(self) -> None:
        self.space = memoryview(bytearray(RELAY_BUFFER))
        self.held = 0
        """Bytes that were read and could not be sent yet, over all relays."""
        self.pipes = PipePool()


class Direction:
    """Bytes from one end to the other. `moved` counts the bytes that were sent. `done`: the source
    has ended and no byte is left to send. `look` gets all bytes before they are sent, until it
    returns True. `sieve` gets all of them and says which may go."""

    __slots__ = (
        "_buffer", "_comes_large", "_may_splice", "_splice",
        "done", "held", "is_busy", "look", "moved", "sieve", "sink", "source",
    )  # fmt: skip

    def __init__(self, source: Transport, sink: Transport, buffer: RelayBuffer) -> None:
        self.source = source
        self.sink = sink
        self.moved = 0
        self.done = False
        self.look: LookAtBytes | None = None
        self.sieve: Sieve | None = None
        self.is_busy = False
        """There may be something to do without a byte to read: `held` or a pipe has some that
        must be sent first, or there is a sieve."""
        self._buffer = buffer
        self.held = b""
        self._comes_large = True
        self._may_splice = True
        self._splice: Splice | None = None  # once it is bulk

    def hold(self, early: bytes) -> None:
        """Send `early` first: bytes that were read from the source before. Raises what `look`
        raises."""
        if self.look is not None and self.look(early):
            self.look = None
        if self.sieve is not None:
            early = self.sieve.take(early)
        self._hold(early)

    def put_through(self, sieve: Sieve) -> None:
        """Have all bytes go through `sieve`, for as long as the relay lasts."""
        self.sieve = sieve
        self.is_busy = True

    def pump(self, most: int) -> int:
        """Move bytes without waiting. Returns MORE if `most` were moved and there may be more; a
        read may go beyond. Otherwise MUCH or LITTLE. Raises SideFailed, and what `look` and `sieve`
        raise."""
        if self.is_busy:
            if self.sieve is not None:
                return self._pump_through(self.sieve, most)
            if not self._send_what_waits():
                return LITTLE
        source, buffer = self.source, self._buffer
        while source.readable and not self.done:
            if self.moved >= BULK_AFTER:
                return self._pump_bulk(most)
            count = source.try_receive_into(buffer.space, SMALL_READ)
            if not count:
                self.done = count == 0
                break
            if not self._pass_on(buffer.space[:count], count):
                break
        return LITTLE

    def _pump_bulk(self, most: int) -> int:
        """As `pump`, for a direction that has moved much before."""
        source, buffer, start = self.source, self._buffer, self.moved
        while source.readable and not self.done:
            if self.moved - start >= most:
                return MORE
            room = SMALL_READ
            if buffer.held < MAX_HELD:
                if self._comes_large and self._may_splice and self.look is None:
                    splice = self._splice_from(start + most - self.moved)
                    if splice is not None:
                        self._comes_large = splice.held >= SPLICE_FROM
                        if self._send_spliced(splice):
                            continue
                        break
                room = RELAY_BUFFER
            count = source.try_receive_into(buffer.space, room)
            if not count:
                self.done = count == 0
                break
            if count >= SPLICE_FROM:
                self._comes_large = True
            if not self._pass_on(buffer.space[:count], count):
                break
        return MUCH if self.moved - start >= SPLICE_FROM else LITTLE

    def _pass_on(self, piece: memoryview, count: int) -> bool:
        """Send what was read, or hold what does not fit; whether nothing is left to send."""
        if self.look is not None and self.look(piece):
            self.look = None
        sent = self.sink.try_send(piece)
        self.moved += sent
        if sent == count:
            return True
        self._hold(bytes(piece[sent:]))
        return False

    def _send_what_waits(self) -> bool:
        """Send what is held, then what the pipe holds; whether nothing is left to send."""
        if self.held and not self._send_held():
            return False
        if self._splice is not None:
            return self._send_spliced(self._splice)
        self.is_busy = False
        return True

    def _pump_through(self, sieve: Sieve, most: int) -> int:
        """As `pump`."""
        start = self.moved
        self._hold(sieve.ready())
        if self.held and not self._send_held():
            return LITTLE
        while self.source.readable and not self.done:
            if self.moved - start >= most:
                return MORE
            data = self.source.try_receive(SIEVED)
            if not data:  # at the end, what waits for its record is still to be sent
                self.done = data is not None and not sieve.unrecorded
                break
            self._hold(sieve.take(data))
            if self.held and not self._send_held():
                break
        return MUCH if self.moved - start >= SPLICE_FROM else LITTLE

    def release(self) -> None:
        """Drop the bytes that are held."""
        if self.held:
            self._buffer.held -= len(self.held)
            self.held = b""
        if self._splice is not None:
            self._leave_splice()

    def _hold(self, data: bytes) -> None:
        self.is_busy = True
        self.held += data
        self._buffer.held += len(data)

    def _splice_from(self, most: int) -> Splice | None:
        """Take up to `most` bytes from the source into a pipe; None if a read must be tried."""
        splice = self._splice
        if splice is None:
            splice = self._splice = splice_between(self.source, self.sink, self._buffer.pipes)
            if splice is None:
                self._may_splice = False
                return None
            self.is_busy = True
        count = splice.try_receive(most)
        self._buffer.held += count
        if not splice.works:
            self._leave_splice()
        return splice if count else None

    def _send_spliced(self, splice: Splice) -> bool:
        """Send what a pipe holds; whether nothing is left to send."""
        while splice.held:
            sent = splice.try_send()
            self.moved += sent
            self._buffer.held -= sent
            if not splice.works:
                self.held, self.is_busy = splice.take_back(), True
                self._leave_splice()
                return self._send_held()
            if not sent:
                return False
        return True

    def _leave_splice(self) -> None:
        """Go on without pipes; what one still holds is dropped."""
        self._may_splice = False
        if self._splice is not None:
            self._buffer.held -= self._splice.held
            self._splice.release()
            self._splice = None

    def _send_held(self) -> bool:
        sent = self.sink.try_send(self.held)
        self.moved += sent
        self._buffer.held -= sent
        self.held = self.held[sent:]
        return not self.held


class Relay:
    """Both directions between two ends. `closed_by` is "shutdown" until something else has ended
    it."""

    __slots__ = (
        "_first_ended", "_has_ended", "_is_end_out", "_most", "_moved",
        "closed_by", "down", "up",
    )  # fmt: skip

    def __init__(self, near: Transport, far: Transport, buffer: RelayBuffer) -> None:
        self.up = Direction(near, far, buffer)
        self.down = Direction(far, near, buffer)
        self.closed_by: ClosedBy = "shutdown"
        self._first_ended: Direction | None = None
        self._is_end_out = False
        self._has_ended = False
        self._moved = LITTLE
        self._most = BULK_AFTER

    async def run(self, rest: Rest) -> None:
        """Move bytes until both directions have ended or a side broke; `rest` has them moved while
        there is nothing else to do. Raises what it, `look` and `sieve` raise. Both transports are
        left to the caller, also if cancelled.
        """
        try:
            while True:
                if self._move():
                    await rest(self._move)
                if self._has_ended:
                    return
                await move_much()
                self._most = TURN_BYTES
                if self._moved >= MORE:
                    await turn()
        except SideFailed as failure:
            self.closed_by = self._ended_by() or _blamed(failure)

    def _move(self) -> bool:
        """Move what has come. Returns True if nothing is left to do but to wait. Raises as
        `pump`."""
        up, down = self.up, self.down
        near, far = up.source, down.source
        moved = LITTLE
        # A direction without anything to move is not asked for it.
        if near.readable or up.is_busy:
            moved = up.pump(self._most)
        if far.readable or down.is_busy:
            moved |= down.pump(self._most)
        if (up.done or down.done) and self._pass_ends():
            self._end("client")
            return False
        if moved:
            self._moved = moved
            return False
        if near.failed:  # a wait for the far end to take bytes would not end
            self._end(near.side)
            return False
        return True

    def _end(self, closed_by: ClosedBy) -> None:
        self.closed_by = self._ended_by() or closed_by
        self._has_ended = True

    def release(self) -> None:
        """Drop the bytes that both directions hold, and cut off those that have not ended. Must be
        called at the end, before the transports are closed."""
        for one in (self.up, self.down):
            one.release()
            if not one.done:
                one.sink.cut()

    def _pass_ends(self) -> bool:
        """Pass on the first direction's end. Return True once that is out and the second's can go
        out with the transports' close."""
        first = self._first_ended
        if first is None:
            first = self._first_ended = self.up if self.up.done else self.down
        if not (self.up.done and self.down.done):
            self._is_end_out = self._is_end_out or first.sink.shutdown()
            return False
        # The closes end both directions; what does not fit of an end must go out before them.
        return first.sink.finish() and first.source.finish()

    def _ended_by(self) -> ClosedBy | None:
        return None if self._first_ended is None else self._first_ended.source.side


def _blamed(failure: SideFailed) -> ClosedBy:
    """The side that ended the connection, or "error" if the network between did."""
    return failure.side if failure.errno in PEER_ENDED else "error"
