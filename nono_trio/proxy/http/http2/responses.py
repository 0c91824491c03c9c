"""The server's half of the streams: responses to the client, bodies both ways, and the flow's line.

Rules of this file:
- A head, a body frame or trailers are checked before they go to the client. A response that could
  be read in two ways, or that does not have the length it says, ends its stream.
- A stream's window is given back once its bytes were sent on. It grows for a body that has proved
  to be long, for a few streams at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from msgspec import UNSET

from nono_trio.core.http.http2_frames import INTERNAL_ERROR, NO_ERROR
from nono_trio.core.http.http2_head import FieldFault, check_trailers, response_head
from nono_trio.core.http.response_head import MAX_INTERIM, BadResponse
from nono_trio.proxy.http.http2.peer import GIVE_BACK, GROWN_WINDOW, WINDOW
from nono_trio.proxy.http.http2.stream import size
from nono_trio.proxy.limits import BULK_AFTER, MAX_HELD

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.events import Event

    from nono_trio.core.http.message import Field
    from nono_trio.core.log.events import Flow
    from nono_trio.proxy.access.decision import FlowStart
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.http.http2.stream import Body, Http2Stream, UpstreamPeer
    from nono_trio.proxy.transport.relay import RelayBuffer

MAX_GROWN: Final = 16  # bodies of one connection with a large window: 3 MiB


class Responses:
    """Passes responses on to one client. `finish` ends a stream; `fail` ends it with a record
    and an answer of ours, or with a reset if it has an answer."""

    def __init__(
        self,
        client: Http2Peer,
        buffer: RelayBuffer,
        finish: Callable[[Http2Stream, int | None], None],
        fail: Callable[[Http2Stream, str], None],
    ) -> None:
        self._client = client
        self._buffer = buffer
        self._finish = finish
        self._fail = fail
        self._grown = 0

    def take(self, one: UpstreamPeer, event: Event) -> None:
        """Act on an event of a connection to the server."""
        if isinstance(event, RemoteSettingsChanged):
            one.peer.has_settings = True
            return
        if isinstance(event, DataReceived):
            one.peer.return_window(event.flow_controlled_length)
        stream = one.streams.get(getattr(event, "stream_id", 0) or 0)
        if stream is None:
            return
        try:
            self._take(one, stream, event)
        except BadResponse as fault:
            self._fail(stream, fault.reason)

    def _take(self, one: UpstreamPeer, stream: Http2Stream, event: Event) -> None:
        if isinstance(event, ResponseReceived | InformationalResponseReceived):
            ended = isinstance(event, ResponseReceived) and event.stream_ended is not None
            self._take_head(stream, event.headers, ended=ended)
        elif isinstance(event, DataReceived):
            padding = event.flow_controlled_length - len(event.data)
            if padding:
                one.peer.return_stream_window(stream.upstream_number, padding)
            if event.data:
                stream.down.add(event.data)
            if stream.down.is_too_long:
                raise BadResponse("the upstream's body is longer than its content-length")
        elif isinstance(event, TrailersReceived):
            fields: list[Field] = [(bytes(name), bytes(value)) for name, value in event.headers]
            try:
                check_trailers(fields)
            except FieldFault as fault:
                raise BadResponse(f"the upstream's trailers: {fault.reason}") from None
            stream.received += size(fields)
            stream.down.trailers = fields
        elif isinstance(event, StreamEnded):
            stream.down.has_ended = True
            if stream.down.is_too_short:
                raise BadResponse("the upstream's body ends before its content-length")
        elif isinstance(event, StreamReset):
            self._take_reset(stream, int(event.error_code or 0))

    def _take_head(self, stream: Http2Stream, raw: list[Field], *, ended: bool) -> None:
        status, fields, length = response_head(raw, stream.method)
        stream.received += size(fields)
        if stream.first_byte is None:
            stream.first_byte = time.monotonic()
        head: list[Field] = [(b":status", b"%d" % status), *fields]
        if status < 200:
            stream.interim += 1
            if stream.interim > MAX_INTERIM:
                raise BadResponse(f"the upstream sent more than {MAX_INTERIM} interim responses")
            self._client.send_head(stream.number, head)
            return
        down = stream.down
        down.length = length
        if ended and length:
            raise BadResponse("the upstream's body ends before its content-length")
        stream.status = status
        stream.is_answered = True
        self._client.send_head(stream.number, head, ended=ended)
        down.has_ended = down.is_sent = ended

    def _take_reset(self, stream: Http2Stream, code: int) -> None:
        if code == NO_ERROR and stream.down.has_ended:  # it needs no more of the request
            stream.up.drop()
            stream.up.is_sent = True
            return
        stream.closed_by = "upstream"
        self._finish(stream, code or INTERNAL_ERROR)

    def send_down(self, stream: Http2Stream) -> bool:
        """Move a body frame of a response, or its end; return whether one moved."""
        one = stream.upstream
        source = None if one is None else one.peer
        return self.send_body(
            stream.down, self._client, stream.number, source, stream.upstream_number
        )

    def send_body(
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

    def forget(self, stream: Http2Stream) -> None:
        """Let other bodies have the stream's large windows."""
        self._grown -= stream.up.has_grown + stream.down.has_grown

    def flow(self, stream: Http2Stream, start: FlowStart) -> Flow:
        """The line of flows.ndjson for a stream that went to the server."""
        if stream.down.is_sent and not stream.is_refused:
            stream.closed_by = "upstream"
        return start.end(
            stream.sent + stream.up.moved,
            stream.received + (0 if stream.is_refused else stream.down.moved),
            stream.closed_by,
            UNSET if stream.status is None else stream.status,
            stream.first_byte,
        )
