"""The response half of an exchange: from the upstream's bytes to the client's.

Rules of this file:
- Each read is sent on at once and never buffered; server-sent events need that.
- A response that could be read in two ways is not sent on.
- A response that was cut off is cut off for the client too; we never complete it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nono_trio.core.http.body import EndlessBody, LengthBody
from nono_trio.core.http.chunked import BadBody, ChunkedBody
from nono_trio.core.http.header_fields import end_to_end_trailers
from nono_trio.core.http.http1 import CLOSE, UNFRAMED, MessageWriter
from nono_trio.core.http.response_head import MAX_INTERIM, BadResponse, parse_response, response_end
from nono_trio.core.http.trailers import announced
from nono_trio.core.http.websocket import UPGRADE_FIELDS
from nono_trio.proxy.limits import READ_BODY
from nono_trio.proxy.transport.transport import SideFailed
from nono_trio.proxy.upstream.proxy_chain import AUTHENTICATE, ProxyRejected, rejection

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.http.response_head import ResponseHead
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.http.request_stream import RequestStream
    from nono_trio.proxy.http.rewrite import OutgoingRequest
    from nono_trio.proxy.transport.client import Client


class ResponseStream:
    """Sends one response on to the client. `answered`: a part of it may have reached the client.
    `ended`: all of it was framed. `received` counts bytes on the wire."""

    __slots__ = (
        "_client",
        "_head",
        "_interim",
        "_pending",
        "_request_stream",
        "_response",
        "_stream_id",
        "_unread",
        "_upstream",
        "_websocket_key",
        "_writer",
        "answered",
        "ended",
        "first_byte",
        "keeps_client",
        "received",
        "status",
        "switched",
    )

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        head: RequestHead,
        request_stream: RequestStream,
        outgoing: OutgoingRequest,
    ) -> None:
        self.received = 0
        self.first_byte: float | None = None
        """When the first byte came, in seconds of the monotonic clock."""
        self.answered = False
        self.ended = False
        self.status: int | None = None
        """The status of the final response; None before its head has come."""
        self.switched = False
        """True if the upstream has agreed to a WebSocket and the client has its answer: the next
        bytes are no HTTP."""
        self.keeps_client = head.keep_alive
        """True unless the response says that the client's connection closes."""
        self._client = client
        self._upstream = upstream
        self._head = head
        self._request_stream = request_stream
        self._stream_id = outgoing.started.stream_id
        self._websocket_key = outgoing.websocket_key
        self._response: ResponseHead | None = None
        self._writer = UNFRAMED  # so are interim responses
        self._interim = 0
        self._unread = b""
        self._pending = b""

    @property
    def done(self) -> bool:
        """True if all of the response was sent to the client."""
        return self.ended and not self._pending

    @property
    def has_open_head(self) -> bool:
        """True if the response's head has begun and is not complete."""
        return self._response is None and bool(self._unread)

    @property
    def left_over(self) -> bytes:
        """The bytes that were received after the response."""
        return self._unread

    @property
    def keeps_upstream(self) -> bool:
        """True if the upstream's connection can carry another request: it stays open, and no byte
        came after the response."""
        response = self._response
        return response is not None and response.keep_alive and not self._unread

    def pump(self) -> bool:
        """Move one piece without waiting; returns True if one moved. Raises BadResponse,
        SideFailed."""
        if self._pending:
            return self._flush()
        if self.ended:
            return False
        if self._response is not None and self._unread:
            raw: bytes | None = self._unread
        elif not self._upstream.transport.readable:
            return False
        else:
            raw = self._receive()
        if raw is None:
            return False
        if raw:
            self._feed(raw)
        else:
            self._take_end()
        self._flush()
        return True

    def _receive(self) -> bytes | None:
        raw = self._upstream.transport.try_receive(READ_BODY)
        if raw:
            if not self.received:
                self.first_byte = time.monotonic()
            self.received += len(raw)
        return raw

    def _feed(self, raw: bytes) -> None:
        response = self._response
        if response is None:
            raw = self._unread + raw
            while response is None and (end := response_end(raw)) >= 0:
                response = self._take_head(raw[:end])
                raw = raw[end:]
            self._response = response
            if response is not None:
                self.status, self.switched = response.status, response.switches
        self._unread = raw
        if response is None:
            return
        if response.switches:
            self._end()
        else:
            self._take_body(response)

    def _take_head(self, raw: bytes) -> ResponseHead | None:
        """Send a head on and return it; None for an interim one."""
        response = parse_response(raw, self._head.method, self._websocket_key)
        chain = self._upstream.chain
        if chain is not None and response.status == AUTHENTICATE:
            raise ProxyRejected(*rejection(response.status, chain.proxy))
        if response.switches:
            self.keeps_client = False
            self._writer = MessageWriter(connection=UPGRADE_FIELDS)
            self._pending += self._writer.write(response.started(self._stream_id))
            return response
        if not response.is_interim:
            self._pass_head(response)
            return response
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise BadResponse(f"the upstream sent more than {MAX_INTERIM} interim responses")
        if self._head.version == "1.1":  # HTTP/1.0 does not know them (RFC 9110 15.2)
            self._pass_interim(response)
        return None

    def _pass_interim(self, response: ResponseHead) -> None:
        self._pending += self._writer.write(response.started(self._stream_id))

    def _pass_head(self, response: ResponseHead) -> None:
        chunked = self._head.version == "1.1" and not isinstance(response.body, LengthBody)
        if not self._request_stream.complete:  # the rest of the request may never be read
            self.keeps_client = False
        connection: tuple[Field, ...] = () if self.keeps_client else (CLOSE,)
        if chunked and isinstance(response.body, ChunkedBody):
            connection += announced(response.fields)
        if chunked or connection:
            self._writer = MessageWriter(chunked=chunked, connection=connection)
        self._pending += self._writer.write(response.started(self._stream_id))

    def _take_body(self, response: ResponseHead) -> None:
        try:
            data, taken = response.body.read(self._unread)
        except BadBody as fault:
            raise BadResponse(f"the upstream's response is malformed: {fault.reason}") from fault
        self._unread = self._unread[taken:]
        if data:
            self._pending += self._writer.write_data(data)
        body = response.body
        if body.done:
            self._end(end_to_end_trailers(response.fields, body.trailers))

    def _end(self, trailers: tuple[Field, ...] = ()) -> None:
        self._pending += self._writer.write_end(trailers)
        self.ended = True

    def _take_end(self) -> None:
        """Handle the upstream's close. It ends an endless body and cuts off any other response."""
        if self._response is None:
            raise BadResponse("the upstream closed the connection without an answer")
        if not isinstance(self._response.body, EndlessBody):
            raise SideFailed("upstream")
        self._response.keep_alive = False
        self._end()

    def _flush(self) -> bool:
        """Send pending bytes; returns True if any were sent."""
        if not self._pending:
            return False
        self.answered = True
        sent = self._client.transport.try_send(self._pending)
        self._pending = self._pending[sent:]
        return sent > 0
