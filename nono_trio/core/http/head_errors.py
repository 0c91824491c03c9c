"""Explains the refusal of a head: status, reason, and the target for the audit.

Rules of this file: the regular expressions of request_head.py decide whether a head is accepted.
The functions here run after a refusal only, so they may be slow, and each must return a reason.
"""

from __future__ import annotations

import re

from nono_trio.core.http.bad_request import BadRequest, shown_target
from nono_trio.core.late import late_pattern

MAX_METHOD = 32  # characters; the longest registered method has 17

_METHOD = late_pattern(rb"[A-Z][A-Z-]*")
_TOKEN = late_pattern(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = late_pattern(rb"[\x21-\x7e]+")
_VERSION = late_pattern(rb"HTTP/[0-9]\.[0-9]")
_VALUE = late_pattern(rb"[\t\x20-\x7e\x80-\xff]*")
_OTHER_SCHEME = late_pattern(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CR, _LF = b"\r\n"


def target_in(head: bytes) -> str:
    """The target in the first bytes of a head, as the audit may show it; "" without a target."""
    line, ended, _ = head.partition(b"\r\n")
    method, *rest = [part for part in line.split(b" ") if part] or [b""]
    if not rest or not _TOKEN.fullmatch(method):
        return ""
    return shown_target(rest[0], whole=bool(ended) or len(rest) > 1)


def line_fault(line: bytes) -> BadRequest:
    """The refusal of a request line (without its CRLF)."""
    shown = target_in(line + b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3:
        return BadRequest(400, "expected method, target and version, one space apart", shown)
    method, target, version = parts
    if not _METHOD.fullmatch(method):
        return BadRequest(400, "expected a method of upper-case letters", shown)
    if len(method) > MAX_METHOD:
        return BadRequest(501, f"the method is longer than {MAX_METHOD} characters", shown)
    if not _TARGET.fullmatch(target):
        return BadRequest(400, "the target has characters outside printable ASCII", shown)
    if not _VERSION.fullmatch(version):
        return BadRequest(400, "expected the version HTTP/1.0 or HTTP/1.1", shown)
    return BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here", shown)


def byte_fault(head: bytes) -> BadRequest:
    """The refusal of the first bytes of a head, whose last byte no head may have."""
    byte = head[-1]
    if byte == _LF:
        reason = "the head has a line feed without a carriage return"
    elif byte == _CR:
        reason = "the head has a carriage return without a line feed"
    else:
        reason = "the head has a control character"
    return BadRequest(400, reason, target_in(head))


def fields_fault(block: bytes, shown: str) -> BadRequest:
    """The refusal of the lines after the request line, the blank line included."""
    for line in block.split(b"\r\n"):
        reason = _field_fault(line)
        if reason is not None:
            return BadRequest(400, reason, shown)
    return BadRequest(400, "the head has no blank line at its end", shown)


def _field_fault(line: bytes) -> str | None:
    name, colon, value = line.partition(b":")
    if not line:
        return None
    if line[:1] in (b" ", b"\t"):
        return "a field is folded over several lines"
    if not colon:
        return "a field line has no colon"
    if name.rstrip(b" \t") != name:
        return "a field has space before its colon"
    if not _TOKEN.fullmatch(name):
        return "a field name has characters that are not allowed"
    if not _VALUE.fullmatch(value):
        return "a field value has a control character"
    return None


def target_fault(target: str) -> str:
    """The reason why a target is not the absolute form of an http URL."""
    scheme, _, rest = target.partition(":")
    if target.startswith("/") or target == "*":
        return "this is a proxy: expected an absolute http:// URL as the target"
    if scheme.lower() == "https" and rest.startswith("//"):
        return "https goes through CONNECT, not through an absolute URL"
    if not _OTHER_SCHEME.match(target) or not rest.startswith("//"):
        return "expected an absolute http:// URL as the target"
    if scheme.lower() != "http":
        return "expected an http:// URL, got another scheme"
    return _url_fault(rest[2:])


def _url_fault(rest: str) -> str:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not authority:
        return "the URL has no host"
    if "@" in authority:
        return "the URL has user information"
    if "#" in rest:
        return "the URL has a fragment"
    if "\\" in rest:
        return "the URL has a backslash"
    return "the URL's authority is not HOST or HOST:PORT"


def authority_fault(target: str) -> str:
    """The reason why the target of a CONNECT is not HOST:PORT."""
    if "@" in target:
        return "the CONNECT target has user information"
    if any(character in target for character in "/?#\\"):
        return "the CONNECT target has more than HOST:PORT"
    return "expected HOST:PORT as the CONNECT target"
