"""The request half of an exchange: from the client's bytes to the upstream's.

Rules of this file: nothing is read from the client while the upstream does not take what was read
before. A body that may hide a request is inspected before it is sent (rewrite.py says which).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.header_fields import end_to_end_trailers
from nono_trio.core.http.hidden_request import REASON, body_inspector, hides_request
from nono_trio.core.http.http1 import UNFRAMED, MessageWriter
from nono_trio.core.http.message import BodyData, MessageEnded, body_events
from nono_trio.core.http.override_fields import is_override_field
from nono_trio.proxy.limits import READ_BODY
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.credentials.body_search import BodySearch
    from nono_trio.proxy.http.rewrite import OutgoingRequest
    from nono_trio.proxy.transport.client import Client

# Bytes of one read of a body that is searched: 1.4 ms of the loop if it is full of escapes.
READ_SEARCHED: Final = 64 * 1024
OVERRIDES: Final = "a trailer may replace the method or path that rules judge"
HIDES: Final = "a trailer may be read as the next request"


class RequestStream:
    """Sends one request to an upstream. `sent` counts bytes on the wire."""

    __slots__ = (
        "_body",
        "_client",
        "_early",
        "_ended",
        "_fields",
        "_hidden",
        "_most",
        "_pending",
        "_search",
        "_stream_id",
        "_upstream",
        "_writer",
        "abandoned",
        "sent",
    )

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        request: HttpRequest,
        outgoing: OutgoingRequest,
        search: BodySearch | None = None,
    ) -> None:
        self.sent = 0
        self.abandoned = False
        """The upstream takes no more of the request; its response may still be there."""
        self._client = client
        self._upstream = upstream
        self._stream_id = request.stream_id
        self._body = request.body
        self._early = request.early if outgoing.early is None else outgoing.early
        self._search = search
        self._most = READ_BODY if search is None else READ_SEARCHED
        self._fields = request.head.fields
        self._ended = False
        self._hidden = body_inspector(request.head, is_judged=outgoing.is_judged)
        chunked = request.head.body == "chunked"
        self._writer = UNFRAMED
        if chunked or outgoing.connection:
            self._writer = MessageWriter(chunked=chunked, connection=outgoing.connection)
        self._pending = self._writer.write(outgoing.started)

    @property
    def complete(self) -> bool:
        """True if the whole request was read and sent, so that another may follow."""
        return self._ended and not self._pending and not self.abandoned

    def pump(self) -> bool:
        """Move one piece without waiting; returns True if one moved. Nothing is sent while the
        search has something unrecorded. Raises BadBody, SideFailed, and MustNotGoOn for a body that
        has what must not be sent."""
        if self._early:
            early, self._early = self._early, ()
            self._send(early)
        if self._search is not None and self._search.unrecorded:
            return False
        if self._pending:
            return self._flush()
        if self._ended or self.abandoned:
            return False
        raw = self._receive()
        if not raw:
            return False
        data, taken = self._body.read(raw)
        self._client.unread = raw[taken:]
        body = self._body
        self._send(body_events(self._stream_id, data, ended=body.done, trailers=body.trailers))
        if self._search is None or not self._search.unrecorded:
            self._flush()
        return True

    def _receive(self) -> bytes | None:
        client = self._client
        if client.unread:
            return client.unread
        if not client.transport.readable:
            return None
        raw = client.transport.try_receive(self._most)
        if raw == b"":
            raise SideFailed("client")  # it left in the middle of its request
        return raw

    def _send(self, events: Iterable[BodyData | MessageEnded]) -> None:
        search = self._search
        for event in events:
            if type(event) is MessageEnded:
                self._ended = True
                if search is not None and (kept := search.end()):
                    self._pending += self._writer.write(BodyData(self._stream_id, kept))
                if event.trailers:
                    event = self._with_checked_trailers(event)
            else:
                if self._hidden is not None and self._hidden.is_in(event.data):
                    raise BadBody(REASON)
                if search is not None:
                    event = BodyData(self._stream_id, search.feed(event.data))
            self._pending += self._writer.write(event)

    def _with_checked_trailers(self, event: MessageEnded) -> MessageEnded:
        """The end with the trailers that may go out. Raises BadBody for trailers by which a server
        might run another request than the recorded one."""
        for name, value in event.trailers:
            if is_override_field(name):
                raise BadBody(OVERRIDES)
            if hides_request(value):
                raise BadBody(HIDES)
        if self._search is not None:
            self._search.check_trailers(event.trailers)
        return MessageEnded(event.stream_id, end_to_end_trailers(self._fields, event.trailers))

    def _flush(self) -> bool:
        if not self._pending:
            return False
        try:
            sent = self._upstream.transport.try_send(self._pending)
        except OSError:  # it may have answered before it hung up, so the response decides
            self.abandoned = True
            self._pending = b""
            return True
        self._pending = self._pending[sent:]
        self.sent += sent
        return sent > 0
