"""The response half of an exchange: from the upstream's bytes to what the client is sent.

Rules of this file: nothing is kept back, each read is passed on at once (server-sent events live
on that); a response that could be read in two ways goes no further; one that was cut off is cut
off for the client too and never completed by us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import h11

from nono_trio.core.heads import end_to_end_fields
from nono_trio.proxy.body import BadBody, EndlessBody
from nono_trio.proxy.relay import SideFailed
from nono_trio.proxy.response import (
    MAX_INFORMATIONAL,
    BadResponse,
    response_body,
    response_end,
    response_status,
)

if TYPE_CHECKING:
    from nono_trio.core.heads import RequestHead
    from nono_trio.proxy.body import BodyGuard
    from nono_trio.proxy.client import Client
    from nono_trio.proxy.readiness import Readiness
    from nono_trio.proxy.upload import Upload
    from nono_trio.proxy.upstream import Upstream

READ_BODY: Final = 64 * 1024  # bytes; h11 copies each piece, and larger ones leave the CPU's cache


class Download:
    """Passes one response on. `answered` once a part of it may have reached the client;
    `received` counts bytes on the wire."""

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        head: RequestHead,
        upload: Upload,
        readiness: Readiness,
    ) -> None:
        self.received = 0
        self.answered = False
        self.surplus = False
        """The upstream sent more than one response: its connection is spoilt."""
        self._client = client
        self._upstream = upstream
        self._head = head
        self._upload = upload
        self._reader = upload.writer  # h11 keeps both directions of a connection in one object
        self._writer = upload.reader
        self._readiness = readiness
        self._started = b""
        self._guard: BodyGuard | None = None
        self._informational = 0
        self._ended = False
        self._pending = b""

    @property
    def done(self) -> bool:
        """Whether the client has been sent all of the response."""
        return self._ended and not self._pending

    def pump(self) -> bool:
        """Move one piece without waiting; whether one moved. Raises BadResponse, SideFailed."""
        if self._pending:
            return self._flush()
        if self._ended or not self._upstream.watch.readable:
            return False
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
        try:
            raw = self._upstream.sock.recv(READ_BODY)
        except BlockingIOError:
            self._upstream.watch.readable = False
            return None
        except OSError as error:
            raise SideFailed("upstream") from error
        self.received += len(raw)
        return raw

    def _feed(self, raw: bytes) -> None:
        guard = self._guard
        if guard is None:
            raw = self._started + raw
            guard, raw = self._take_heads(raw)
            if guard is None:
                self._started = raw
                return
            self._guard = guard
        self._take_body(raw, guard)

    def _take_heads(self, raw: bytes) -> tuple[BodyGuard | None, bytes]:
        """Pass on what heads there are: the guard of the final one's body, and what is left."""
        guard = None
        while guard is None and (end := response_end(raw)) >= 0:
            guard = self._take_head(raw[:end])
            raw = raw[end:]
        return guard, raw

    def _take_head(self, raw: bytes) -> BodyGuard | None:
        status = response_status(raw)
        self._reader.receive_data(raw)
        event = self._next_event()
        if isinstance(event, h11.InformationalResponse):
            self._pass_informational(event)
            return None
        if not isinstance(event, h11.Response):
            raise BadResponse("the upstream's response head can be read in two ways")
        guard = response_body(raw, self._head.method, status)
        self._pass_head(event)
        return guard

    def _pass_informational(self, event: h11.InformationalResponse) -> None:
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise BadResponse(f"the upstream sent more than {MAX_INFORMATIONAL} interim responses")
        if self._head.version == "1.1":  # HTTP/1.0 does not know them (RFC 9110 15.2)
            fields = end_to_end_fields(event.headers.raw_items())
            self._write(
                h11.InformationalResponse(
                    status_code=event.status_code, headers=fields, reason=event.reason
                )
            )

    def _pass_head(self, event: h11.Response) -> None:
        fields = end_to_end_fields(event.headers.raw_items())
        if not self._upload.complete:  # its rest may never be read
            fields.append((b"Connection", b"close"))
        self._write(
            h11.Response(status_code=event.status_code, headers=fields, reason=event.reason)
        )

    def _take_body(self, raw: bytes, guard: BodyGuard) -> None:
        try:
            taken = guard.take(raw)
        except BadBody as fault:
            raise BadResponse(f"the upstream's response is malformed: {fault.reason}") from fault
        self.surplus = taken < len(raw)
        if taken:
            self._reader.receive_data(raw[:taken])
        self._pass_body()
        if self._ended != guard.done:
            raise BadResponse("the upstream's response can be read in two ways")

    def _pass_body(self) -> None:
        data = b""
        while isinstance(event := self._next_event(), h11.Data):
            data += event.data
        if data:
            self._write(h11.Data(data=data))
        if isinstance(event, h11.EndOfMessage):
            self._ended = True
            self._write(h11.EndOfMessage())

    def _take_end(self) -> None:
        """The upstream has hung up: the end of an endless body, a cut anywhere else."""
        if self._guard is None:
            raise BadResponse("the upstream closed the connection without an answer")
        if not isinstance(self._guard, EndlessBody):
            raise SideFailed("upstream")
        self._reader.receive_data(b"")
        self._pass_body()

    def _next_event(self) -> object:
        try:
            return self._reader.next_event()
        except h11.RemoteProtocolError as error:
            raise BadResponse("the upstream's response is malformed") from error

    def _write(self, event: h11.Event) -> None:
        try:
            self._pending += self._writer.send(event) or b""
        except h11.LocalProtocolError as error:
            raise BadResponse("the upstream's response can't be passed on") from error

    def _flush(self) -> bool:
        """Send what is pending; whether any of it went."""
        if not self._pending:
            return False
        self.answered = True
        try:
            sent = self._client.try_send(self._pending)
        except OSError as error:
            raise SideFailed("client") from error
        self._pending = self._pending[sent:]
        if self._pending:
            self._readiness.want_write(self._client.watch)
        return sent > 0
