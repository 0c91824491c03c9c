r"""Parses request heads strictly: HTTP/1.0 and HTTP/1.1 only.

Rules of this file:
- h11 reads a head that is accepted here as the same method, target and fields (a property test
  checks it).
- Nothing is repaired. A head that two parsers could read differently is a 400: bare CR or LF,
  obs-fold, a space before the colon, two framing fields, `Content_Length`.
- Regular expressions over whole blocks accept a head; head_errors.py explains a refusal.

RFC 9112 leaves these choices open, and they are made here once:
- A bare LF ends no line (2.2 lets a recipient take it): 400. It hides a field from strict peers.
- Empty lines before a request line (2.2 lets a server skip them) are a 400: nothing we start
  sends them, and a second request that starts with one has lost its framing.
- HTTP/1.0 is served, CONNECT without Host included (old clients send it); never kept alive (9.3).
- Methods are upper-case: `connect` must not reach the branch of all other methods. TRACE and TRACK
  echo credentials, so they are a 405; other methods are forwarded.
- obs-text (0x80-0xFF) is opaque data in values that only the origin reads, and refused in others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from nono_trio.core.http.bad_request import BadRequest, shown_target
from nono_trio.core.http.field_block import FieldBlock, remember, requests
from nono_trio.core.http.head_errors import byte_fault, fields_fault, line_fault, target_in
from nono_trio.core.http.header_fields import connection_options
from nono_trio.core.http.message import RequestHead
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    import re

MAX_REQUEST_LINE: Final = 8 * 1024  # bytes; RFC 9112 3 asks for 8000 at least
MAX_HEAD: Final = 32 * 1024  # bytes; cookies and tokens of real clients stay under 16 KiB
MAX_FIELDS: Final = 128  # Apache has 100; each field costs a tuple, so the count is bounded too

_LINE = rb"([A-Z][A-Z-]{0,31}) ([\x21-\x7e]++) HTTP/1\.([01])"
_VALUE_LINE = rb":[\t\x20-\x7e\x80-\xff]*+\r\n"
_REQUEST_LINE = late_pattern(_LINE)
_HEAD = late_pattern(_LINE + rb"\r\n((?:[0-9A-Za-z-]++" + _VALUE_LINE + rb")*+)\r\n")
_HEAD_WITH_ODD_NAMES = late_pattern(
    _LINE + rb"\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++" + _VALUE_LINE + rb")*+)\r\n"
)
# Lines without control characters: matches up to the first byte that can't be in a head.
_CLEAN = late_pattern(rb"(?:[\t\x20-\x7e\x80-\xff]++|\r\n)*+")
_ODD_IN_NAME = late_pattern(rb"[^0-9a-z]")
_HOST_FIELD = late_pattern(rb"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LENGTH = late_pattern(rb"0|[1-9][0-9]{0,18}")  # 19 digits stay below 2**64; "010" is 8 to some
_KNOWN_CODINGS = late_pattern(rb"(?:(?:x-)?(?:gzip|compress)|deflate)[ \t]*,[ \t]*chunked")

_CR = 0x0D
_SINGLE = frozenset(
    {b"content-length", b"expect", b"host", b"proxy-authorization", b"transfer-encoding"}
)
# The fields that the proxy reads. CGI servers read any odd character of a name as "_", so
# `Transfer_Encoding` is the field itself to some servers and an unknown field to others.
_GUARDED = _SINGLE | {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"}
_ECHOING_METHODS = frozenset({"TRACE", "TRACK"})


def head_end(buffer: bytearray | bytes, start: int) -> int:
    """Return the index after the blank line that ends the head at the front of `buffer`, or -1.

    `start` is how many bytes an earlier call has already seen (0 at first), so that a head fed byte
    by byte is not scanned again and again. Raises BadRequest as soon as no further byte can help: a
    first byte that starts no method (TLS, SOCKS, an empty line), a control character, a bare CR or
    LF, a malformed request line, a line or head over its limit. Bytes after the end are ignored.
    The result does not depend on how the bytes were split.
    """
    if start == 0 and buffer and not buffer[:1].isalpha():
        raise BadRequest(400, "expected a request line, got a byte that starts no method")
    line_end = _request_line_end(buffer, start)
    if line_end < 0:
        return -1
    end = buffer.find(b"\r\n\r\n", max(start - 3, line_end), MAX_HEAD)
    stop = end + 4 if end >= 0 else min(len(buffer), MAX_HEAD)
    _check_clean(buffer, max(start, line_end), stop)
    if end < 0 and len(buffer) >= MAX_HEAD:
        raise _too_large(target_in(bytes(buffer[:MAX_HEAD])))
    return stop if end >= 0 else -1


def _request_line_end(buffer: bytearray | bytes, start: int) -> int:
    """Return the index of the request line's CRLF, and check the line; -1 if it is incomplete."""
    limit = MAX_REQUEST_LINE + 2
    end = buffer.find(b"\r\n", 0, limit)
    if 0 <= end <= start - 2:
        return end
    _check_clean(buffer, start, end + 2 if end >= 0 else min(len(buffer), limit))
    if end >= 0 and not _REQUEST_LINE.fullmatch(buffer, 0, end):
        raise line_fault(bytes(buffer[:end]))
    if end < 0 and len(buffer) >= limit:
        raise _line_too_long(bytes(buffer[:limit]))
    return end


def _check_clean(buffer: bytearray | bytes, start: int, stop: int) -> None:
    """Raise for the first byte in [start, stop) that no head may have; a CR may be the last byte,
    since its LF may follow."""
    if start > 0 and buffer[start - 1] == _CR:
        start -= 1
    match = _CLEAN.match(buffer, start, stop)
    reached = start if match is None else match.end()
    if reached < stop and not (reached == stop - 1 and buffer[reached] == _CR):
        raise byte_fault(bytes(buffer[: reached + 1]))


def _line_too_long(head: bytes) -> BadRequest:
    reason = f"the request line is longer than {MAX_REQUEST_LINE} bytes"
    return BadRequest(414, reason, target_in(head[: MAX_REQUEST_LINE + 2]))


def _too_large(shown: str) -> BadRequest:
    return BadRequest(431, f"the request head is longer than {MAX_HEAD} bytes", shown)


def parse_head(raw: bytes) -> RequestHead:
    """Parse one head, from its first byte to its blank line and not a byte more (see `head_end`).

    Raises BadRequest: 400 for syntax and framing, 405 TRACE and TRACK, 414 and 431 for the limits,
    417 for an expectation other than 100-continue, 501 for a transfer coding or method that is not
    implemented, 505 for another HTTP version.
    """
    line_end = raw.find(b"\r\n")
    block = requests.find(raw[line_end + 2 :])
    match = None if block is None else _REQUEST_LINE.fullmatch(raw, 0, line_end)
    if match is None:
        match = _HEAD.fullmatch(raw)
        if match is None:
            match = _HEAD_WITH_ODD_NAMES.fullmatch(raw)
            if match is None:
                raise _head_fault(raw)
            _refuse_imitations(match)
    if match.end(3) > MAX_REQUEST_LINE:
        raise _line_too_long(raw)
    if len(raw) > MAX_HEAD:
        raise _too_large(shown_target(match[2]))
    try:
        return _accepted(match, raw, block or _split(raw[match.end(3) + 2 :]))
    except BadRequest as fault:
        fault.target = shown_target(match[2])
        raise


def _head_fault(raw: bytes) -> BadRequest:
    line, _, block = raw.partition(b"\r\n")
    if len(line) > MAX_REQUEST_LINE:
        return _line_too_long(raw)
    if len(raw) > MAX_HEAD:
        return _too_large(target_in(raw))
    if not _REQUEST_LINE.fullmatch(line):
        return line_fault(line)
    return fields_fault(block, target_in(raw))


def _refuse_imitations(match: re.Match[bytes]) -> None:
    for line in match[4].split(b"\r\n"):
        name = line.partition(b":")[0].lower()
        if name not in _GUARDED and _ODD_IN_NAME.sub(b"-", name) in _GUARDED:
            raise BadRequest(
                400, "a field name imitates a framing or proxy field", shown_target(match[2])
            )


def _accepted(match: re.Match[bytes], raw: bytes, block: FieldBlock) -> RequestHead:
    method, target = match[1].decode("ascii"), match[2].decode("ascii")
    version: Literal["1.0", "1.1"] = "1.1" if match[3] == b"1" else "1.0"
    guarded = block.guarded
    if method in _ECHOING_METHODS:
        raise BadRequest(405, "TRACE and TRACK are not forwarded: they echo credentials")
    if version == "1.1" and b"host" not in guarded:
        raise BadRequest(400, "the host field is missing")
    if block.host_fault is not None:
        raise BadRequest(400, block.host_fault)
    body, length = _framing(method, version, guarded)
    expects = _expects_continue(guarded.get(b"expect"))
    return RequestHead(
        method,
        target,
        version,
        block,
        raw,
        body,
        length,
        expects and version == "1.1" and (length > 0 or body == "chunked"),
        version == "1.1" and not block.closes,
    )


def _split(raw: bytes) -> FieldBlock:
    """Split the lines of a head, from its first field to its blank line, and remember them if they
    may be. Raises BadRequest."""
    lines = raw.split(b"\r\n")
    del lines[-2:]  # the empty strings after the last field and after the blank line
    if len(lines) > MAX_FIELDS:
        raise BadRequest(431, f"the head has more than {MAX_FIELDS} fields")
    fields, spelled, guarded = [], [], dict[bytes, bytes]()
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        spelled.append((name, value))
        name = name.lower()
        fields.append((name, value))
        if name in _GUARDED:
            _guard(guarded, name, value)
    block = FieldBlock(
        raw,
        tuple(fields),
        spelled,
        frozenset([name for name, _ in fields]),
        guarded,
        _host_fault(guarded.get(b"host")),
        b"close" in connection_options(guarded.get(b"connection", b"")),
        {},
    )
    remember(block)
    return block


def _guard(guarded: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    if not value.isascii():
        raise BadRequest(400, f"the {name.decode()} field has characters outside ASCII")
    if name not in guarded:
        guarded[name] = value
    elif name in _SINGLE:
        raise BadRequest(400, f"the {name.decode()} field is there more than once")
    else:
        guarded[name] += b"," + value


def _host_fault(value: bytes | None) -> str | None:
    if value is None or _HOST_FIELD.fullmatch(value):
        return None
    return "the host field is not HOST or HOST:PORT"


def _framing(
    method: str, version: str, guarded: dict[bytes, bytes]
) -> tuple[Literal["none", "length", "chunked"], int]:
    coding, length = guarded.get(b"transfer-encoding"), guarded.get(b"content-length")
    if coding is None and length is None:
        return "none", 0
    if method == "CONNECT":
        raise BadRequest(400, "a CONNECT has no body, so it can't have framing fields")
    if coding is not None:
        _check_coding(coding.lower(), version, length)
        return "chunked", 0
    if length is None or not _LENGTH.fullmatch(length):
        raise BadRequest(400, "the content-length field is not a plain decimal number")
    return "length", int(length)


def _check_coding(coding: bytes, version: str, length: bytes | None) -> None:
    if length is not None:
        raise BadRequest(400, "transfer-encoding and content-length exclude each other")
    if version == "1.0":
        raise BadRequest(400, "HTTP/1.0 has no transfer-encoding")
    if _KNOWN_CODINGS.fullmatch(coding):
        raise BadRequest(501, "chunked is the only transfer coding that is implemented")
    if coding != b"chunked":
        raise BadRequest(400, "the transfer-encoding field is not chunked")


def _expects_continue(value: bytes | None) -> bool:
    if value is None:
        return False
    if value.lower() != b"100-continue":
        raise BadRequest(417, "the only expectation that can be met is 100-continue")
    return True
