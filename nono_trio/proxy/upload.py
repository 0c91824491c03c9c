"""The request half of an exchange: from the client's bytes to what the upstream is sent.

Rules of this file: the head that goes out is made anew (Host from the target, our own framing, no
hop-by-hop fields, no token); a body is checked, read by h11 and framed again, so no byte of the
client's framing reaches the upstream. Chunk extensions and trailers end here: both may be dropped
(RFC 9112 7.1), and nothing that we pass on announces them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from nono_trio.core.heads import MAX_HEAD, end_to_end_fields
from nono_trio.proxy.body import BadBody
from nono_trio.proxy.relay import SideFailed

if TYPE_CHECKING:
    from nono_trio.core.heads import RequestHead
    from nono_trio.core.targets import HttpTarget
    from nono_trio.proxy.body import BodyGuard
    from nono_trio.proxy.client import Client
    from nono_trio.proxy.readiness import Readiness
    from nono_trio.proxy.upstream import Upstream


class Upload:
    """Sends one request to an upstream. `sent` counts bytes on the wire."""

    def __init__(
        self, client: Client, upstream: Upstream, guard: BodyGuard, readiness: Readiness
    ) -> None:
        self.reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * MAX_HEAD)
        self.writer = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * MAX_HEAD)
        self.sent = 0
        self.abandoned = False
        """The upstream takes no more of the request; its response may still be there."""
        self._client = client
        self._upstream = upstream
        self._guard = guard
        self._readiness = readiness
        self._ended = False
        self._pending = b""

    @property
    def complete(self) -> bool:
        """Whether the whole request was read and sent, so that another may follow."""
        return self._ended and not self._pending and not self.abandoned

    def begin(self, head: RequestHead, target: HttpTarget, early: bytes) -> None:
        """Read the head, and the body bytes that came with it. Raises BadBody."""
        self.reader.receive_data(head.raw)
        request = self._next_event()
        if not isinstance(request, h11.Request) or not _agrees(request, head):
            raise BadBody("the head can be read in two ways")
        fields = [(b"Host", target.authority), *_passed_on(request, head)]
        if head.body == "chunked":
            fields.append((b"Transfer-Encoding", b"chunked"))
        self._pending = self._write(
            h11.Request(method=head.method, target=target.path, headers=fields)
        )
        self._feed(early)

    def pump(self) -> bool:
        """Move one piece without waiting; whether anything moved. Raises BadBody, SideFailed."""
        if self._pending:
            return self._flush()
        if self._ended or self.abandoned:
            return False
        raw = self._receive()
        if not raw:
            return False
        taken = self._guard.take(raw)
        self._client.unread = raw[taken:]
        self._feed(raw[:taken])
        self._flush()
        return True

    def _receive(self) -> bytes | None:
        client = self._client
        if client.unread:
            return client.unread
        if not client.watch.readable:
            return None
        try:
            raw = client.try_receive()
        except OSError as error:
            raise SideFailed("client") from error
        if raw is None:
            client.watch.readable = False
        elif not raw:
            raise SideFailed("client")  # it left in the middle of its request
        return raw

    def _feed(self, raw: bytes) -> None:
        """Frame the body bytes in `raw` again, and the end of the request if they reach it."""
        if raw:
            self.reader.receive_data(raw)
        data = b""
        while isinstance(event := self._next_event(), h11.Data):
            data += event.data
        if data:
            self._pending += self._write(h11.Data(data=data))
        self._ended = isinstance(event, h11.EndOfMessage)
        if self._ended != self._guard.done:
            raise BadBody("the body can be read in two ways")
        if self._ended:
            self._pending += self._write(h11.EndOfMessage())

    def _next_event(self) -> object:
        try:
            return self.reader.next_event()
        except h11.RemoteProtocolError as error:
            raise BadBody("the request is malformed") from error

    def _write(self, event: h11.Event) -> bytes:
        try:
            return self.writer.send(event) or b""
        except h11.LocalProtocolError as error:
            raise BadBody("the request can't be passed on") from error

    def _flush(self) -> bool:
        try:
            sent = self._upstream.sock.send(self._pending)
        except BlockingIOError:
            sent = 0
        except OSError:  # it may have answered before it hung up, so the response decides
            self.abandoned = True
            self._pending = b""
            return True
        self._pending = self._pending[sent:]
        self.sent += sent
        if self._pending:
            self._readiness.want_write(self._upstream.watch)
        return sent > 0


def _agrees(request: h11.Request, head: RequestHead) -> bool:
    return (
        request.method == head.method.encode("ascii")
        and request.target == head.target.encode("ascii")
        and len(request.headers) == len(head.fields)
    )


def _passed_on(request: h11.Request, head: RequestHead) -> list[tuple[bytes, bytes]]:
    """The client's fields as it spelled them, without Host and what is for us.

    No Via is added (RFC 9110 7.6.3 asks for it): some servers stop compressing when they see one,
    and a loop through this proxy is denied by address.
    """
    dropped = {b"host"} if head.expects_continue else {b"host", b"expect"}
    return [
        (name, value)
        for name, value in end_to_end_fields(request.headers.raw_items())
        if name.lower() not in dropped
    ]
