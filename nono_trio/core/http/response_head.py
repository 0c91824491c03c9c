"""Parses the response heads of an upstream strictly.

The upstream may be hostile too, and the client takes what it sends for the host's answer. RFC 9112
lets a recipient repair a lot. Nothing is repaired here: two lengths, a length beside chunked,
folded fields or bare line feeds are a 502.

Rules of this file: as in `core.http.request_head`, one regular expression matches every accepted
byte, and h11 reads an accepted head as the same status, fields and framing (a property test checks
it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec
from msgspec.structs import replace

from nono_trio.core.http.body import Body, EndlessBody, LengthBody
from nono_trio.core.http.chunked import ChunkedBody
from nono_trio.core.http.field_block import BlockMemory, WrittenFields
from nono_trio.core.http.header_fields import (
    connection_options,
    end_to_end_fields,
    passed_fields,
)
from nono_trio.core.http.message import ResponseStarted
from nono_trio.core.http.websocket import is_accepted
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.header_fields import Field

MAX_RESPONSE_HEAD: Final = 64 * 1024  # bytes; servers send longer heads (cookies, CSP) than clients
MAX_INTERIM: Final = 16  # 1xx before the final response; a server must not send them for ever

_STATUS_LINE_TEXT: Final = rb"HTTP/1\.([01]) ([1-9][0-9][0-9])((?: [\t\x20-\x7e\x80-\xff]*+)?)"
_STATUS_LINE = late_pattern(_STATUS_LINE_TEXT)
_HEAD = late_pattern(
    _STATUS_LINE_TEXT + rb"\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_BARE_LINE_FEED = late_pattern(rb"(?<!\r)\n")
_LENGTH = late_pattern(rb"0|[1-9][0-9]{0,18}")
_UNKNOWN_CODING: Final = "the upstream's response has an unknown transfer coding"
# Without cookies, without links, and without opaque values that a server has chosen (ETags).
_HARMLESS: Final = frozenset(
    {
        b"accept-ranges", b"age", b"allow", b"cache-control", b"connection", b"content-encoding",
        b"content-language", b"content-length", b"content-type", b"date", b"expires",
        b"keep-alive", b"last-modified", b"pragma", b"server", b"strict-transport-security",
        b"transfer-encoding", b"vary", b"via", b"x-content-type-options", b"x-frame-options",
    }
)  # fmt: skip
_READ: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_SWITCHING: Final = 101
_NO_CONTENT: Final = 204
_BODILESS: Final = frozenset({_NO_CONTENT, 304})  # RFC 9112 6.3, rule 1


class BadResponse(Exception):
    """A response that must not be sent on. `reason` is printable and quotes no input."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@final
class ResponseFields(msgspec.Struct, frozen=True, gc=False):
    """The fields of one head. `given` are all, in their order and case, `passed_on` those that the
    client gets.

    `framing` are those that frame a body, and `fault` says what is wrong with them. Without a
    fault the body is chunked, or has a `length`, or has no end of its own. `closes`: Connection
    names `close`. They may carry cookies, so `repr` shows none. They must not be changed.
    """

    given: Sequence[Field]
    passed_on: WrittenFields
    framing: Sequence[Field]
    fault: str | None
    length: int | None
    closes: bool

    def __repr__(self) -> str:
        return f"ResponseFields({len(self.given)} fields)"


class ResponseHead(msgspec.Struct):
    """One accepted head. `reason` starts with its space."""

    status: int
    reason: bytes
    block: ResponseFields
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

    @property
    def fields(self) -> Sequence[Field]:
        """All fields, in their order and case."""
        return self.block.given

    def started(self, stream_id: int) -> ResponseStarted:
        """The head as the client gets it, with its end-to-end fields."""
        return ResponseStarted(stream_id, self.status, self.reason, self.block.passed_on)


responses: Final[BlockMemory[ResponseFields]] = BlockMemory()


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
    line_end = raw.find(b"\r\n")
    block = responses.find(raw[line_end + 2 :])
    match = None if block is None else _STATUS_LINE.fullmatch(raw, 0, line_end)
    if block is None or match is None:
        match = _HEAD.fullmatch(raw)
        if match is None:
            raise BadResponse("the upstream's response head is malformed")
        block = _split(raw[match.end(3) + 2 :])
    status, is_1_1 = int(match[2]), match[1] == b"1"
    if status == _SWITCHING:
        _check_switch(block, websocket_key)
    body = _body(block, knows_chunked=is_1_1)
    if method == "HEAD" or status in _BODILESS:
        body = LengthBody(0)
    # A length is not allowed there (RFC 9110 8.6), yet servers send 0. A client that does not know
    # an interim response could take the final one for a body of that length.
    if block.framing and (status == _NO_CONTENT or status < 200):
        block = _without_length(block)
    return ResponseHead(status, match[3], block, is_1_1 and not block.closes, body)


def _check_switch(block: ResponseFields, websocket_key: bytes | None) -> None:
    if websocket_key is None:
        raise BadResponse("the upstream switched protocols without being asked")
    if block.framing or not is_accepted(block.given, websocket_key):
        raise BadResponse("the upstream switched protocols without a WebSocket handshake")


def _split(raw: bytes) -> ResponseFields:
    """Split the lines of a head, from its first field to its blank line, and remember them if they
    can have no secret."""
    framing: list[Field] = []
    fields, names, closes = [], [], False
    for line in raw.split(b"\r\n")[:-2]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        fields.append((name, value))
        name = name.lower()
        names.append(name)
        if name in _READ:
            if name == b"connection":
                closes = closes or b"close" in connection_options(value)
            else:
                framing.append((name, value))
    fault = _framing_fault(framing)
    length = None
    if framing and fault is None and framing[0][0] == b"content-length":
        length = int(framing[0][1])
    passed_on = WrittenFields.of(passed_fields(fields, names))
    block = ResponseFields(fields, passed_on, framing, fault, length, closes)
    if fault is None and _HARMLESS.issuperset(names):
        responses.keep(raw, block)
    return block


def _framing_fault(framing: list[Field]) -> str | None:
    """RFC 9112 6.3 without its repairs: one length or chunked, never both, never twice."""
    if not framing:
        return None
    if len(framing) > 1:
        return "the upstream's response has more than one framing field"
    [(name, value)] = framing
    if name == b"transfer-encoding":
        return None if value.lower() == b"chunked" else _UNKNOWN_CODING
    if not _LENGTH.fullmatch(value):
        return "the upstream's content-length is not a plain decimal number"
    return None


def _body(block: ResponseFields, *, knows_chunked: bool) -> Body:
    if block.fault is not None:
        raise BadResponse(block.fault)
    if block.length is not None:
        return LengthBody(block.length)
    if not block.framing:
        return EndlessBody()
    if not knows_chunked:
        raise BadResponse(_UNKNOWN_CODING)
    return ChunkedBody()


def _without_length(block: ResponseFields) -> ResponseFields:
    given = [field for field in block.given if field[0].lower() != b"content-length"]
    return replace(block, given=given, passed_on=WrittenFields.of(end_to_end_fields(given)))
