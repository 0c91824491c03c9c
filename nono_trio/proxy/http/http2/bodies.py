"""The bytes of bodies: what one direction of a stream holds, and how they go to the other side.

Rules of this file:
- A body goes on a frame at a time, so that streams take turns.
- A stream's window is given back once its bytes were sent on. It grows for a body that has proved
  to be long, for a few streams at a time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nono_trio.proxy.http.http2.peer import GIVE_BACK, GROWN_WINDOW, WINDOW
from nono_trio.proxy.limits import BULK_AFTER, MAX_HELD

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.transport.relay import RelayBuffer

JOINED: Final = 4096  # bytes; a piece under it is joined with the next, as each costs some 60 more
MAX_GROWN: Final = 16  # bodies of one connection with a large window: 3 MiB


class Body:
    """The bytes of one direction. `length` is what the head says; None for unknown.

    `has_ended`: the source has ended it. `is_sent`: so has the sink. `moved` counts the bytes that
    were sent on, `unreturned` those of them whose window was not given back.
    """

    __slots__ = (
        "_buffer",
        "came",
        "has_ended",
        "has_grown",
        "held",
        "is_sent",
        "length",
        "moved",
        "pieces",
        "trailers",
        "unreturned",
    )

    def __init__(self, buffer: RelayBuffer) -> None:
        self._buffer = buffer
        self.pieces: deque[bytes | bytearray] = deque()
        self.held = 0
        self.came = 0
        self.moved = 0
        self.unreturned = 0
        self.length: int | None = None
        self.trailers: list[Field] | None = None
        self.has_ended = False
        self.is_sent = False
        self.has_grown = False

    @property
    def is_too_long(self) -> bool:
        """True if more came than the head says."""
        return self.length is not None and self.came > self.length

    @property
    def is_too_short(self) -> bool:
        """True if it has ended before its length."""
        return self.has_ended and self.length is not None and self.came != self.length

    def add(self, data: bytes) -> None:
        """Hold bytes that came."""
        pieces = self.pieces
        last = pieces[-1] if pieces else b""
        if isinstance(last, bytearray) and len(last) < JOINED:
            last += data
        else:
            pieces.append(data if len(data) >= JOINED else bytearray(data))
        self.came += len(data)
        self.held += len(data)
        self._buffer.held += len(data)

    def take(self, most: int) -> bytes:
        """Take up to `most` of the bytes that are held, for sending."""
        taken, count = list[bytes | bytearray](), 0
        while self.pieces and count < most:
            piece = self.pieces.popleft()
            if count + len(piece) > most:
                self.pieces.appendleft(piece[most - count :])
                piece = piece[: most - count]
            taken.append(piece)
            count += len(piece)
        self.held -= count
        self._buffer.held -= count
        self.moved += count
        return b"".join(taken)

    def replace(self, data: bytes) -> None:
        """Hold other bytes instead of a whole body of which none was sent on."""
        self.drop()
        self.came = 0
        self.add(data)
        if self.length is not None:
            self.length = len(data)

    def drop(self) -> None:
        """Forget the bytes that are held."""
        self._buffer.held -= self.held
        self.held = 0
        self.pieces.clear()


class BodyMover:
    """Moves the bodies of one client's streams, both ways. `buffer` counts all bytes held."""

    __slots__ = ("_buffer", "_grown")

    def __init__(self, buffer: RelayBuffer) -> None:
        self._buffer = buffer
        self._grown = 0

    def move(
        self, body: Body, sink: Http2Peer, number: int, source: Http2Peer | None, origin: int
    ) -> bool:
        """Move a frame of a body to the stream `number` of `sink`; it came from the stream `origin`
        of `source`. Returns whether one moved."""
        if body.is_sent or not sink.may_queue:
            return False
        if not body.held:
            if not body.has_ended:
                return False
            body.is_sent = True
            if body.trailers is None:
                sink.send_body(number, b"", ended=True)
            else:
                sink.send_head(number, body.trailers, ended=True)
            return True
        room = sink.room(number)
        if room <= 0:
            return False
        data = body.take(room)
        body.is_sent = body.has_ended and not body.held and body.trailers is None
        sink.send_body(number, data, ended=body.is_sent)
        if source is not None and not body.has_ended:
            self._return_window(body, source, origin, len(data))
        return True

    def _return_window(self, body: Body, source: Http2Peer, origin: int, count: int) -> None:
        body.unreturned += count
        if body.unreturned < GIVE_BACK:
            return
        count, body.unreturned = body.unreturned, 0
        is_bulk = body.moved >= BULK_AFTER and not body.has_grown
        if is_bulk and self._grown < MAX_GROWN and self._buffer.held < MAX_HELD:
            body.has_grown = True
            self._grown += 1
            count += GROWN_WINDOW - WINDOW
        source.return_stream_window(origin, count)

    def forget(self, body: Body) -> None:
        """Let other bodies have the large window of a body that has ended."""
        self._grown -= body.has_grown
