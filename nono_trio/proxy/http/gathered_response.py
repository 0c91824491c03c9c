"""The answer of a token URL: held back whole, and sent on with stand-ins for its tokens.

Rules of this file:
- Not a byte of its head and body goes on before all of it has been read and its tokens are
  kept. It has room for MAX_ANSWER bytes.
- An encoded body can't be read (the request asked for none), and a redirect leads to where nothing
  is captured: both are refused, and so is an answer that has a token in its head.
- What goes on has one framing of our own, no reason phrase and no trailers, and no interim response
  (1xx) goes before it: a token could be in each of them, before it is known as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.core.credentials.token_answer import MAX_ANSWER, BadAnswer
from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.http1 import CLOSE, MessageWriter
from nono_trio.core.http.message import ResponseStarted, body_events
from nono_trio.core.http.response_head import BadResponse
from nono_trio.proxy.http.response_stream import ResponseStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.http.response_head import ResponseHead
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.http.request_stream import RequestStream
    from nono_trio.proxy.http.rewrite import OutgoingRequest
    from nono_trio.proxy.transport.client import Client

_LENGTH: Final = b"content-length"
_TYPE: Final = b"content-type"
_ENCODING: Final = b"content-encoding"
_BODILESS: Final = (204, 304)


class TakesAnswer(Protocol):
    """Takes the answer to one request."""

    def check_fields(self, fields: Sequence[Field]) -> None:
        """Raise BadAnswer for a head that must not go on."""
        ...

    async def answered(self, content_type: bytes | None, body: bytes, *, is_success: bool) -> bytes:
        """Return the body that goes on. Raises BadAnswer. The time is bounded."""
        ...


class GatheredResponse(ResponseStream):
    """Holds one response back until `takes` has changed it."""

    __slots__ = ("_gathered", "_is_whole", "_takes")

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        head: RequestHead,
        request_stream: RequestStream,
        outgoing: OutgoingRequest,
        takes: TakesAnswer,
    ) -> None:
        super().__init__(client, upstream, head, request_stream, outgoing)
        self._takes = takes
        self._gathered = bytearray()
        self._is_whole = False

    @property
    def is_held(self) -> bool:
        """True if all of it was read and nothing was sent: `release` is next."""
        return self._is_whole and not self.ended

    def pump(self) -> bool:
        """As `ResponseStream.pump`."""
        return False if self.is_held else super().pump()

    async def release(self) -> None:
        """Have the answer changed; it is sent by the next `pump`. Raises BadResponse."""
        response = self._response
        if response is None:
            raise AssertionError("there is no answer")
        types = [value for name, value in response.fields if name.lower() == _TYPE]
        if len(types) > 1:
            raise _refused("has two content types")
        try:
            body = await self._takes.answered(
                types[0] if types else None,
                bytes(self._gathered),
                is_success=200 <= response.status < 300,
            )
        except BadAnswer as bad:
            raise _refused(bad.reason) from None
        self._gathered.clear()
        if not self._request_stream.complete:
            self.keeps_client = False
        started = response.started(self._stream_id)
        fields = [field for field in started.fields if field[0].lower() != _LENGTH]
        if response.status not in _BODILESS:
            fields.append((b"Content-Length", b"%d" % len(body)))
        connection: tuple[Field, ...] = () if self.keeps_client else (CLOSE,)
        writer = MessageWriter(connection=connection)
        self._pending += writer.write(
            ResponseStarted(self._stream_id, response.status, b" ", fields)
        )
        for event in body_events(self._stream_id, body, ended=True):
            self._pending += writer.write(event)
        self.ended = True

    def _pass_interim(self, response: ResponseHead) -> None:
        pass

    def _pass_head(self, response: ResponseHead) -> None:
        if 300 <= response.status < 400 and response.status != 304:
            raise _refused("is a redirect, which leads to where nothing is captured")
        if any(
            name.lower() == _ENCODING and value.lower() != b"identity"
            for name, value in response.fields
        ):
            raise _refused("is compressed")
        try:
            self._takes.check_fields(response.fields)
        except BadAnswer as bad:
            raise _refused(f"{bad.reason}, in its head") from None

    def _take_body(self, response: ResponseHead) -> None:
        try:
            data, taken = response.body.read(self._unread)
        except BadBody as fault:
            raise BadResponse(f"the upstream's response is malformed: {fault.reason}") from fault
        self._unread = self._unread[taken:]
        self._gathered += data
        if len(self._gathered) > MAX_ANSWER:
            raise _refused(f"is longer than {MAX_ANSWER} bytes")
        self._is_whole = response.body.done

    def _end(self, trailers: tuple[Field, ...] = ()) -> None:
        """The upstream has ended a body that ends with its connection."""
        self._is_whole = True


def _refused(reason: str) -> BadResponse:
    return BadResponse(f"the answer of the token endpoint {reason}")
