"""The request half of an exchange: from the client's bytes to what the upstream is sent.

Rules of this file: the head that goes out is made anew (Host from the target, our own framing, no
hop-by-hop fields, no token), from a head that `core.http.request_head` has accepted; so is the
framing of the body. Nothing is read from the client while the upstream does not take what was read.

Servers differ on bodies: many leave one unread where the method has none in practice, and take its
bytes for the next request of the connection, which then runs without a record. So such a request is
told to be the connection's last, by the field that every server obeys (RFC 9112 9.6). That field
ends with the next hop: a body that begins as a request does goes nowhere at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.http.body import LAST_CHUNK, framed
from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.fields import end_to_end_fields
from nono_trio.core.http.hidden_request import REASON, HiddenRequest, has_unusual_body
from nono_trio.core.http.websocket import UPGRADE_FIELDS, offered_key
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.http.target import HttpTarget
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.upstream.proxy_chain import ProxyChain


class RequestStream:
    """Sends one request to an upstream. `sent` counts bytes on the wire."""

    __slots__ = (
        "_body",
        "_chunked",
        "_client",
        "_early",
        "_ended",
        "_hidden",
        "_pending",
        "_upstream",
        "abandoned",
        "is_last",
        "sent",
        "websocket_key",
    )

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        request: HttpRequest,
    ) -> None:
        head = request.head
        self.sent = 0
        self.abandoned = False
        """The upstream takes no more of the request; its response may still be there."""
        self.is_last = has_unusual_body(head)
        """The upstream was told that no other request follows on its connection."""
        self.websocket_key = offered_key(head)
        """The key of the WebSocket handshake that the request begins; None if it is none."""
        self._client = client
        self._upstream = upstream
        self._body = request.body
        self._chunked = head.body == "chunked"
        self._ended = False
        self._hidden = HiddenRequest() if self.is_last else None
        self._pending = _passed_on(head, request.target, self._connection_fields(), upstream.chain)
        self._early: bytes | None = request.early

    def _connection_fields(self) -> tuple[bytes, ...]:
        if self.websocket_key is not None:
            return UPGRADE_FIELDS
        return (b"Connection: close",) if self.is_last else ()

    @property
    def complete(self) -> bool:
        """Whether the whole request was read and sent, so that another may follow."""
        return self._ended and not self._pending and not self.abandoned

    def pump(self) -> bool:
        """Move one piece without waiting; whether one moved. Raises BadBody, SideFailed."""
        if self._early is not None:
            early, self._early = self._early, None
            self._frame(early)
        if self._pending:
            return self._flush()
        if self._ended or self.abandoned:
            return False
        raw = self._receive()
        if not raw:
            return False
        data, taken = self._body.read(raw)
        self._client.unread = raw[taken:]
        self._frame(data)
        self._flush()
        return True

    def _receive(self) -> bytes | None:
        client = self._client
        if client.unread:
            return client.unread
        raw = client.transport.try_receive()
        if raw == b"":
            raise SideFailed("client")  # it left in the middle of its request
        return raw

    def _frame(self, data: bytes) -> None:
        if self._hidden is not None and self._hidden.is_in(data):
            raise BadBody(REASON)
        self._pending += framed(data, chunked=self._chunked)
        if self._body.done:
            self._ended = True
            if self._chunked:
                self._pending += LAST_CHUNK

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


def _passed_on(
    head: RequestHead,
    target: HttpTarget,
    connection: tuple[bytes, ...],
    chain: ProxyChain | None,
) -> bytes:
    """The head as the upstream gets it; fields keep the case in which the client wrote them. An
    upstream proxy gets it in absolute form, with what it asks for (RFC 9112 3.2.2).

    No Via is added (RFC 9110 7.6.3 asks for it): some servers stop compressing when they see one,
    and a loop through this proxy is denied by address.
    """
    dropped = {b"host"} if head.expects_continue else {b"host", b"expect"}
    where = target.path if chain is None else target.absolute
    lines = [b"%b %b HTTP/1.1" % (head.method.encode("ascii"), where)]
    lines.append(b"Host: " + target.authority)
    lines += [] if chain is None else chain.authorization
    for name, value in end_to_end_fields(_as_written(head)):
        if name.lower() not in dropped:
            lines.append(b"%b: %b" % (name, value))
    if head.body == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join([*lines, *connection, b"", b""])


def _as_written(head: RequestHead) -> list[tuple[bytes, bytes]]:
    lines = head.raw.split(b"\r\n")[1:-2]
    return [
        (line[: line.index(b":")], value)
        for line, (_, value) in zip(lines, head.fields, strict=True)
    ]
