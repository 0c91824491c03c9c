"""The client's half of the streams: its requests, decided about and made to go out.

Rules of this file:
- A request is written as a head of HTTP/1.1, so the authorizer of those decides about it.
- What goes out has the path that was judged.
- A request whose body is needed whole waits in `unjudged` until it has come. A body that goes on
  as it comes is searched for stand-ins first.
- A body or trailers that turn out to be bad end their stream, and the server sees no end of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from h2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.hidden_request import REASON, hides_request
from nono_trio.core.http.http2_head import (
    FieldFault,
    check_trailers,
    outgoing_fields,
    request_bytes,
)
from nono_trio.core.http.mcp_message import BadMessage, cut_off
from nono_trio.core.http.override_fields import is_override_field
from nono_trio.proxy.access.authorizer import ConnectRequest
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.connection_handler import FULL
from nono_trio.proxy.credentials.interfaces import MustNotGoOn
from nono_trio.proxy.http.http2.peer import MAX_OPEN
from nono_trio.proxy.http.http2.stream import Http2Stream
from nono_trio.proxy.http.http2.unjudged import UnjudgedStreams
from nono_trio.proxy.http.request_stream import HIDES, OVERRIDES

if TYPE_CHECKING:
    from h2.events import Event

    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.access.authorizer import Authorizer, HttpRequest
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.connection_handler import ProxyContext
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.http.http2.stream_lifecycle import StreamLifecycle

TOO_LONG: Final = "the body is longer than its content-length"
TOO_SHORT: Final = "the body ends before its content-length"
_ANY_REQUEST: Final = b"GET / HTTP/1.1\r\n"  # stands for one that could not be read


class Requests:
    """Takes the requests of one client, whose connection is to `port` of the server."""

    __slots__ = ("_authorizer", "_client", "_lifecycle", "_port", "_proxy", "unjudged")

    def __init__(
        self,
        client: Http2Peer,
        proxy_context: ProxyContext,
        authorizer: Authorizer,
        port: int,
        lifecycle: StreamLifecycle,
    ) -> None:
        self._client = client
        self._proxy = proxy_context
        self._authorizer = authorizer
        self._port = port
        self._lifecycle = lifecycle
        self.unjudged = UnjudgedStreams(client, lifecycle, proxy_context.limits.head)

    def malformed(self, fault: BadRequest) -> Decision:
        """The refusal of a request that could not be read."""
        return self._authorizer.malformed(_ANY_REQUEST, fault)

    def take(self, event: Event) -> None:
        """Act on an event of the client's connection. Raises Http2Fault."""
        if isinstance(event, RequestReceived):
            self._open(event)
        elif isinstance(event, DataReceived):
            self._take_data(event)
        elif isinstance(event, TrailersReceived):
            self._take_trailers(event)
        elif isinstance(event, StreamEnded):
            self._take_end(event.stream_id)
        elif isinstance(event, StreamReset):
            stream = self._lifecycle.streams.get(event.stream_id)
            if stream is not None:
                stream.closed_by = "client"
                if stream in self.unjudged:
                    self.unjudged.refuse(stream, cut_off())
                self._lifecycle.finish(stream, None)

    def _open(self, event: RequestReceived) -> None:
        stream = Http2Stream(event.stream_id, self._proxy.buffer)
        if self._client.is_leaving or len(self._lifecycle.streams) >= MAX_OPEN:
            self._client.refuse_stream(stream.number)
            return
        self._lifecycle.add(stream)
        stream.up.has_ended = event.stream_ended is not None
        decision = self._decide(stream, event.headers)
        if decision.refusal is None and _waits(stream, decision):
            self.unjudged.add(stream, decision, trio.current_time())
        else:
            self._lifecycle.start(stream, decision)

    def _decide(self, stream: Http2Stream, fields: list[Field]) -> Decision:
        """Decide about a request as about one of HTTP/1.1, and make what goes out."""
        has_ended = stream.up.has_ended
        try:
            raw = request_bytes(fields, self._port, ended=has_ended)
            request, decision, _ = self._authorizer.authorize(raw, b"")
        except BadRequest as fault:
            return self.malformed(fault)
        if isinstance(request, ConnectRequest):
            raise AssertionError("a CONNECT has no path")  # noqa: TRY004
        stream.take_request(request, is_judged=decision.is_judged)
        if self._proxy.credentials is not None:
            decision = _guarded(stream, request, decision, self._proxy.credentials)
        if decision.refusal is not None:  # what policy refuses is never a lack of room
            return decision
        if has_ended and request.head.length:
            return decision.refused(Refusal(400, TOO_SHORT))
        if self._lifecycle.is_full:
            return decision.refused(FULL)
        expects = request.head.expects_continue and not _waits(stream, decision)
        stream.fields = _outgoing(request, fields, expects=expects)
        return self._proxy.route(decision)

    def _take_data(self, event: DataReceived) -> None:
        self._client.return_window(event.flow_controlled_length)
        stream = self._lifecycle.streams.get(event.stream_id)
        if stream is None or stream.is_refused:
            return
        padding = event.flow_controlled_length - len(event.data)
        if padding:
            self._client.return_stream_window(stream.number, padding)
        if not event.data:
            return
        try:
            data = event.data if stream.search is None else stream.search.feed(event.data)
        except MustNotGoOn as stop:
            self._stop(stream, stop)
            return
        if data:
            stream.up.add(data)
        if stream.up.is_too_long:
            self._refuse_late(stream, TOO_LONG)
        elif stream.hidden is not None and stream.hidden.is_in(event.data):
            self._refuse_late(stream, REASON)
        elif stream in self.unjudged:
            self.unjudged.check(stream)
        elif stream.search is not None and stream.search.unrecorded:
            self._lifecycle.note_found(stream)

    def _end_search(self, stream: Http2Stream) -> None:
        """Let go what the search has kept, since the body has ended."""
        kept = b"" if stream.search is None else stream.search.end()
        if kept:
            stream.up.add(kept)

    def _stop(self, stream: Http2Stream, stop: MustNotGoOn) -> None:
        """Refuse a request whose body has a stand-in."""
        if stream in self.unjudged:
            self.unjudged.refuse_with(stream, stop.refusal)
        else:
            self._lifecycle.refuse_late(stream, stop.refusal)

    def _refuse_late(self, stream: Http2Stream, reason: str) -> None:
        if stream in self.unjudged:
            self.unjudged.refuse(stream, BadMessage(f"is malformed: {reason}"))
        else:
            self._lifecycle.refuse_late(stream, Refusal(400, reason))

    def _take_trailers(self, event: TrailersReceived) -> None:
        stream = self._lifecycle.streams.get(event.stream_id)
        if stream is None or stream.is_refused:
            return
        fields: list[Field] = [(bytes(name), bytes(value)) for name, value in event.headers]
        try:
            check_trailers(fields)
        except FieldFault as fault:
            self._refuse_late(stream, fault.reason)
            return
        if any(is_override_field(name) for name, _ in fields):
            self._refuse_late(stream, OVERRIDES)
            return
        if any(hides_request(value) for _, value in fields):
            self._refuse_late(stream, HIDES)
            return
        if stream.search is not None:
            try:
                stream.search.check_trailers(fields)
            except MustNotGoOn as stop:
                self._stop(stream, stop)
                return
            if stream.search.unrecorded and stream not in self.unjudged:
                self._lifecycle.note_found(stream)
        self._end_search(stream)
        stream.up.trailers = fields

    def _take_end(self, number: int) -> None:
        stream = self._lifecycle.streams.get(number)
        if stream is None:
            return
        if not stream.is_refused:
            self._end_search(stream)
        stream.up.has_ended = True
        if stream.up.is_too_long and not stream.is_refused:
            self._refuse_late(stream, TOO_LONG)
        elif stream.up.is_too_short and not stream.is_refused:
            self._refuse_late(stream, TOO_SHORT)
        elif stream in self.unjudged:
            self.unjudged.judge(stream)


def _guarded(
    stream: Http2Stream, request: HttpRequest, decision: Decision, credentials: Credentials
) -> Decision:
    """The decision about a request, now that its head was searched for stand-ins."""
    guard = stream.guard = credentials.guard("https", request.host, request.port)
    decision = guard.judge_head(request, decision)
    stream.search = guard.body_search(request, decision)
    return decision


def _waits(stream: Http2Stream, decision: Decision) -> bool:
    """Return whether the body of an allowed request is needed whole."""
    if decision.messages is not None:
        return True
    guard, request = stream.guard, stream.request
    return guard is not None and request is not None and guard.wants_body(request)


def _outgoing(request: HttpRequest, fields: list[Field], *, expects: bool) -> list[Field]:
    """The fields that go out for an allowed request, with the path that was judged."""
    head, target = request.head, request.target
    return [
        (b":method", head.method.encode("ascii")),
        (b":scheme", b"https"),
        (b":authority", target.authority),
        (b":path", target.path),
        *outgoing_fields(fields, expects=expects),
    ]
