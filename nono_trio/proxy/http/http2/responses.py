"""The server's half of the streams: its responses, checked on their way to the client.

Rules of this file:
- A head, a body frame or trailers are checked before they go to the client. A response that could
  be read in two ways, or that does not have the length it says, ends its stream.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from nono_trio.core.http.http2_frames import INTERNAL_ERROR, NO_ERROR
from nono_trio.core.http.http2_head import FieldFault, check_trailers, response_head
from nono_trio.core.http.response_head import MAX_INTERIM, BadResponse
from nono_trio.proxy.http.http2.stream import size

if TYPE_CHECKING:
    from h2.events import Event

    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.http.http2.stream import Http2Stream, UpstreamPeer
    from nono_trio.proxy.http.http2.stream_lifecycle import StreamLifecycle


class Responses:
    """Passes responses on to one client."""

    __slots__ = ("_client", "_lifecycle")

    def __init__(self, client: Http2Peer, lifecycle: StreamLifecycle) -> None:
        self._client = client
        self._lifecycle = lifecycle

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
            self._lifecycle.fail(stream, fault.reason)

    def _take(self, one: UpstreamPeer, stream: Http2Stream, event: Event) -> None:
        if isinstance(event, ResponseReceived | InformationalResponseReceived):
            ended = isinstance(event, ResponseReceived) and event.stream_ended is not None
            self._take_head(stream, event.headers, ended=ended)
        elif isinstance(event, DataReceived):
            self._take_data(one, stream, event)
        elif isinstance(event, TrailersReceived):
            self._take_trailers(stream, event.headers)
        elif isinstance(event, StreamEnded):
            stream.down.has_ended = True
            if stream.down.is_too_short:
                raise BadResponse("the upstream's body ends before its content-length")
        elif isinstance(event, StreamReset):
            self._take_reset(stream, int(event.error_code or 0))

    def _take_data(self, one: UpstreamPeer, stream: Http2Stream, event: DataReceived) -> None:
        padding = event.flow_controlled_length - len(event.data)
        if padding:
            one.peer.return_stream_window(stream.upstream_number, padding)
        if event.data:
            stream.down.add(event.data)
        if stream.down.is_too_long:
            raise BadResponse("the upstream's body is longer than its content-length")

    def _take_trailers(self, stream: Http2Stream, raw: list[Field]) -> None:
        fields: list[Field] = [(bytes(name), bytes(value)) for name, value in raw]
        try:
            check_trailers(fields)
        except FieldFault as fault:
            raise BadResponse(f"the upstream's trailers: {fault.reason}") from None
        stream.received += size(fields)
        stream.down.trailers = fields

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
        if stream.guard is not None:
            stream.guard.note_status(status)
        stream.is_answered = True
        self._client.send_head(stream.number, head, ended=ended)
        down.has_ended = down.is_sent = ended

    def _take_reset(self, stream: Http2Stream, code: int) -> None:
        if code == NO_ERROR and stream.down.has_ended:  # it needs no more of the request
            stream.up.drop()
            stream.up.is_sent = True
            return
        stream.closed_by = "upstream"
        self._lifecycle.finish(stream, code or INTERNAL_ERROR)
