"""One stream of a client: a request, its response, and the bytes of both that wait; and the
connection to the server that carries it."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from nono_trio.core.http.header_fields import with_length
from nono_trio.core.http.hidden_request import body_inspector
from nono_trio.core.late import late_pattern
from nono_trio.proxy.http.http2.bodies import Body

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.hidden_request import HiddenRequest, HiddenRequestLine
    from nono_trio.core.log.events import ClosedBy, Flow
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import Decision, FlowStart, Recorded, Refusal
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.credentials.body_search import BodySearch
    from nono_trio.proxy.credentials.request_guard import RequestGuard
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.transport.relay import RelayBuffer

PSEUDO: Final = 4  # pseudo-headers before the fields that go out; :path is the last


# Not application/grpc-web, whose trailers are in the body.
_GRPC: Final = late_pattern(rb"application/grpc(?![^+; ])", re.IGNORECASE)


class Http2Stream:
    """A request by HTTP/2. `number` is its stream id at the client, `upstream_number` that at the
    upstream. `is_answered`: a final head went to the client. `is_done`: nothing more moves."""

    __slots__ = (
        "closed_by",
        "decision",
        "down",
        "fields",
        "first_byte",
        "guard",
        "hidden",
        "interim",
        "is_answered",
        "is_done",
        "is_noting",
        "is_refused",
        "late_refusal",
        "method",
        "number",
        "received",
        "recorded",
        "request",
        "search",
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
        self.late_refusal: Refusal | None = None
        """Why it is refused after all; found before its first decision was recorded."""
        self.guard: RequestGuard | None = None
        """None in a session without credentials."""
        self.search: BodySearch | None = None
        """The search of the body that still comes."""
        self.is_noting = False
        """True while the stand-ins that the search has found are being recorded."""
        self.is_answered = False
        self.is_refused = False
        """The answer is ours, so what still comes of the request is thrown away."""
        self.is_done = False

    @property
    def may_go_out(self) -> bool:
        """True if its request may still be sent to the server."""
        return not self.is_done and not self.is_refused

    @property
    def is_grpc(self) -> bool:
        """True if its client reads a status of gRPC in the trailers, and no other."""
        kind = b"" if self.request is None else self.request.head.first(b"content-type") or b""
        return _GRPC.match(kind) is not None

    @property
    def may_move_up(self) -> bool:
        """True if bytes of its body may go to the server now."""
        if not self.upstream_number or self.is_refused:
            return False
        return self.search is None or not self.search.unrecorded

    def take_request(self, request: HttpRequest, *, is_judged: bool) -> None:
        """Note the request that was parsed, and whether rules have decided about it."""
        self.request = request
        head = request.head
        self.method = head.method
        self.up.length = head.length if head.body == "length" else None
        self.hidden = body_inspector(head, is_judged=is_judged)

    @property
    def needs_secrets(self) -> bool:
        """True if stand-ins are to be swapped in what goes out."""
        return self.guard is not None and self.guard.swaps

    async def put_secrets(self) -> None:
        """Swap the stand-ins in what goes out, if there are any. Raises MustNotGoOn."""
        guard, request = self.guard, self.request
        if guard is None or request is None or not guard.swaps:
            return
        pseudo, fields = self.fields[:PSEUDO], self.fields[PSEUDO:]
        swapped = await guard.swap(request.target.path, fields, request)
        fields = [*swapped.fields]
        if swapped.body is not None:
            self.up.replace(swapped.body)
            fields = with_length(fields, len(swapped.body))
        pseudo[-1] = (b":path", swapped.target)
        self.fields = pseudo + fields

    def drop(self) -> None:
        """Forget all bytes that are held."""
        self.up.drop()
        self.down.drop()

    def flow(self, start: FlowStart) -> Flow:
        """The line of flows.ndjson for a stream that went to the server."""
        if self.down.is_sent and not self.is_refused:
            self.closed_by = "upstream"
        return start.end(
            self.sent + self.up.moved,
            self.received + (0 if self.is_refused else self.down.moved),
            self.closed_by,
            UNSET if self.status is None else self.status,
            self.first_byte,
        )


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
