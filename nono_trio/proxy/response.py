"""Response heads of an upstream: where one ends, whether its framing can be trusted.

The upstream is the other side that may be hostile: what it sends reaches a client that believes
it comes from the host it asked for. h11 reads the head afterwards; this file refuses what h11 would
repair: two lengths, a length beside chunked, folded fields, bare line feeds.

Rules of this file: like `core.heads`, one regular expression matches every accepted byte. The head
goes no further than this proxy if it is refused: the client gets a 502.
"""

from __future__ import annotations

import re
from typing import Final

from nono_trio.proxy.body import BodyGuard, ChunkedBody, EndlessBody, LengthBody

MAX_RESPONSE_HEAD: Final = 64 * 1024  # bytes; servers send longer heads (cookies, CSP) than clients
MAX_INFORMATIONAL: Final = 16  # 1xx before the final response; more are a way to never answer

_HEAD = re.compile(
    rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_FRAMING = re.compile(rb"(?im)^(content-length|transfer-encoding):[ \t]*(.*?)[ \t]*\r$")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_BODILESS: Final = frozenset({204, 304})  # RFC 9112 6.3, rule 1; 1xx never get here


class BadResponse(Exception):
    """A response that must not be passed on; `reason` is printable and quotes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def response_end(buffer: bytes) -> int:
    """Index just past the blank line of the head at the front of `buffer`, or -1. Raises
    BadResponse for a head over the limit."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_RESPONSE_HEAD)
    if end < 0 and len(buffer) >= MAX_RESPONSE_HEAD:
        raise BadResponse(f"the upstream's response head is longer than {MAX_RESPONSE_HEAD} bytes")
    return end + 4 if end >= 0 else -1


def response_status(raw: bytes) -> int:
    """The status of a head, checked as a whole. Raises BadResponse."""
    match = _HEAD.fullmatch(raw)
    if match is None:
        raise BadResponse("the upstream's response head is malformed")
    status = int(match[1])
    if status == 101:
        raise BadResponse("the upstream switched protocols without being asked")
    return status


def response_body(raw: bytes, method: str, status: int) -> BodyGuard:
    """The guard for the body that follows a final response head. Raises BadResponse.

    RFC 9112 6.3, without its repairs: one length or chunked, never both, never twice.
    """
    framing = _FRAMING.findall(raw)
    if len(framing) > 1:
        raise BadResponse("the upstream's response has more than one framing field")
    guard: BodyGuard = EndlessBody()
    for name, value in framing:
        guard = _framed(name, value, knows_chunked=raw.startswith(b"HTTP/1.1"))
    if method == "HEAD" or status in _BODILESS:
        return LengthBody(0)
    return guard


def _framed(name: bytes, value: bytes, *, knows_chunked: bool) -> BodyGuard:
    if name.lower() == b"transfer-encoding":
        if value.lower() != b"chunked" or not knows_chunked:
            raise BadResponse("the upstream's response has an unknown transfer coding")
        return ChunkedBody()
    if not _LENGTH.fullmatch(value):
        raise BadResponse("the upstream's content-length is not a plain decimal number")
    return LengthBody(int(value))
