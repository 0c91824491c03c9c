"""Parses the response heads of an upstream strictly.

The upstream may be hostile too, and the client takes what it sends for the host's answer. RFC 9112
lets a recipient repair a lot. Nothing is repaired here: two lengths, a length beside chunked,
folded fields or bare line feeds are a 502.

Rules of this file: as in `core.http.request_head`, one regular expression matches every accepted
byte, and h11 reads an accepted head as the same status, fields and framing (a property test checks
it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.http.body import Body, ChunkedBody, EndlessBody, LengthBody
from nono_trio.core.http.header_fields import connection_options, end_to_end_fields
from nono_trio.core.http.message import ResponseStarted
from nono_trio.core.http.websocket import is_accepted
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from nono_trio.core.http.message import Field

MAX_RESPONSE_HEAD: Final = 64 * 1024  # bytes; servers send longer heads (cookies, CSP) than clients
MAX_INTERIM: Final = 16  # 1xx before the final response; a server must not send them for ever

_HEAD = late_pattern(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])((?: [\t\x20-\x7e\x80-\xff]*+)?)\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_BARE_LINE_FEED = late_pattern(rb"(?<!\r)\n")
_LENGTH = late_pattern(rb"0|[1-9][0-9]{0,18}")
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_SWITCHING: Final = 101
_NO_CONTENT: Final = 204
_BODILESS: Final = frozenset({_NO_CONTENT, 304})  # RFC 9112 6.3, rule 1


class BadResponse(Exception):
    """A response that must not be sent on. `reason` is printable and quotes no input."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResponseHead(msgspec.Struct):
    """One accepted head. `fields` keep their order and case; `reason` starts with its space."""

    status: int
    reason: bytes
    fields: list[Field]
    keep_alive: bool
    body: Body
    """Reads the body; without meaning for an interim response."""

    @property
    def is_interim(self) -> bool:
        """True for a 1xx that another head follows."""
        return self.status < 200 and not self.switches

    @property
    def switches(self) -> bool:
        """True if it ends HTTP on this connection: the bytes after it are a WebSocket's."""
        return self.status == _SWITCHING

    def started(self, stream_id: int) -> ResponseStarted:
        """The head as the client gets it, with its end-to-end fields."""
        fields = end_to_end_fields(self.fields)
        return ResponseStarted(stream_id, self.status, self.reason, fields)


def response_end(buffer: bytes) -> int:
    """Return the index after the blank line of the head at the front of `buffer`, or -1. Raises
    BadResponse if no further byte can complete a head: for a bare line feed, or too many bytes."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_RESPONSE_HEAD)
    if end >= 0:
        return end + 4
    if _BARE_LINE_FEED.search(buffer):  # for its sender the head may have ended here
        raise BadResponse("the upstream's response head is malformed")
    if len(buffer) >= MAX_RESPONSE_HEAD:
        raise BadResponse(f"the upstream's response head is longer than {MAX_RESPONSE_HEAD} bytes")
    return -1


def parse_response(raw: bytes, method: str, websocket_key: bytes | None = None) -> ResponseHead:
    """Parse one head, from its first byte to its blank line, as an answer to `method`.

    `websocket_key` is the key of the request's handshake, if it began one. Raises BadResponse.
    """
    match = _HEAD.fullmatch(raw)
    if match is None:
        raise BadResponse("the upstream's response head is malformed")
    status = int(match[2])
    fields, framing, options = _split(match[4])
    if status == _SWITCHING:
        _check_switch(fields, framing, websocket_key)
    body = _body(framing, knows_chunked=match[1] == b"1")
    if method == "HEAD" or status in _BODILESS:
        body = LengthBody(0)
    if status == _NO_CONTENT:  # a length is not allowed there (RFC 9110 8.6), yet servers send 0
        fields = [field for field in fields if field[0].lower() != b"content-length"]
    keep_alive = match[1] == b"1" and b"close" not in options
    return ResponseHead(status, match[3], fields, keep_alive, body)


def _check_switch(fields: list[Field], framing: list[Field], websocket_key: bytes | None) -> None:
    if websocket_key is None:
        raise BadResponse("the upstream switched protocols without being asked")
    if framing or not is_accepted(fields, websocket_key):
        raise BadResponse("the upstream switched protocols without a WebSocket handshake")


def _split(block: bytes) -> tuple[list[Field], list[Field], list[bytes]]:
    """All fields, those that frame a body, and the options of Connection."""
    fields, framing, options = [], [], list[bytes]()
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        fields.append((name, value))
        lowered = name.lower()
        if lowered in _FRAMING:
            framing.append((lowered, value))
        elif lowered == b"connection":
            options += connection_options(value)
    return fields, framing, options


def _body(framing: list[Field], *, knows_chunked: bool) -> Body:
    """RFC 9112 6.3 without its repairs: one length or chunked, never both, never twice."""
    if not framing:
        return EndlessBody()
    if len(framing) > 1:
        raise BadResponse("the upstream's response has more than one framing field")
    [(name, value)] = framing
    if name == b"transfer-encoding":
        if value.lower() != b"chunked" or not knows_chunked:
            raise BadResponse("the upstream's response has an unknown transfer coding")
        return ChunkedBody()
    if not _LENGTH.fullmatch(value):
        raise BadResponse("the upstream's content-length is not a plain decimal number")
    return LengthBody(int(value))
