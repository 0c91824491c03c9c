"""One stream of a client: a request, its response, and the bytes of both that wait; and the
connection to the server that carries it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.core.http.hidden_request import body_inspector

if TYPE_CHECKING:
    from nono_trio.core.http.hidden_request import HiddenRequest, HiddenRequestLine
    from nono_trio.core.http.message import Field
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import Decision, FlowStart, Recorded
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.transport.relay import RelayBuffer

JOINED: Final = 4096  # bytes; a piece under it is joined with the next, as each costs some 60 more


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

    def drop(self) -> None:
        """Forget the bytes that are held."""
        self._buffer.held -= self.held
        self.held = 0
        self.pieces.clear()


class Http2Stream:
    """A request by HTTP/2. `number` is its stream id at the client, `upstream_number` that at the
    upstream. `is_answered`: a final head went to the client. `is_done`: nothing more moves."""

    __slots__ = (
        "closed_by",
        "decision",
        "down",
        "fields",
        "first_byte",
        "hidden",
        "interim",
        "is_answered",
        "is_done",
        "is_refused",
        "late_reason",
        "method",
        "number",
        "received",
        "recorded",
        "request",
        "sent",
        "start",
        "status",
        "up",
        "upstream",
        "upstream_number",
    )

    def __init__(self, number: int, buffer: RelayBuffer) -> None:
        self.number = number
        self.up = Body(buffer)
        self.down = Body(buffer)
        self.request: HttpRequest | None = None
        self.decision: Decision | None = None
        self.recorded: Recorded | None = None
        self.fields: list[Field] = []
        """The fields that go out, with pseudo-headers."""
        self.method = ""
        self.hidden: HiddenRequest | HiddenRequestLine | None = None
        self.upstream: UpstreamPeer | None = None
        self.upstream_number = 0
        self.start: FlowStart | None = None
        self.status: int | None = None
        self.first_byte: float | None = None
        self.closed_by: ClosedBy = "shutdown"
        self.interim = 0
        self.sent = 0
        """Bytes of the fields that went out; those of the body are in `up`."""
        self.received = 0
        self.late_reason = ""
        """Why it is refused after all; found before its first decision was recorded."""
        self.is_answered = False
        self.is_refused = False
        """The answer is ours, so what still comes of the request is thrown away."""
        self.is_done = False

    @property
    def may_go_out(self) -> bool:
        """True if its request may still be sent to the server."""
        return not self.is_done and not self.is_refused

    def take_request(self, request: HttpRequest, *, is_judged: bool) -> None:
        """Note the request that was parsed, and whether rules have decided about it."""
        self.request = request
        head = request.head
        self.method = head.method
        self.up.length = head.length if head.body == "length" else None
        self.hidden = body_inspector(head, is_judged=is_judged)

    def drop(self) -> None:
        """Forget all bytes that are held."""
        self.up.drop()
        self.down.drop()


@dataclass(slots=True, eq=False)
class UpstreamPeer:
    """A connection to the server. `streams` are open on it, by their ids there; `waiting` are
    decided, and wait until the server takes another stream."""

    upstream: Upstream
    peer: Http2Peer
    streams: dict[int, Http2Stream] = field(default_factory=dict)
    waiting: deque[Http2Stream] = field(default_factory=deque)
    is_left: bool = False
    """It gets no other stream."""


def size(fields: list[Field]) -> int:
    """The bytes of names and values, which the flow counts for a head."""
    return sum(len(name) + len(value) for name, value in fields)
