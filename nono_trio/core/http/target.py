r"""Request-targets: where a request wants to go. RFC 9112 3.2, read as narrowly as it can be.

Rules of this file:
- The target alone says where to go; a Host field never does (it is rewritten when forwarding).
- No URL library: `urlsplit` strips controls, takes "[::1]evil" and lets "\@" move the host.
- A port is 1 to 65535 in at most five ASCII digits without a leading zero: "0443" is octal to
  some, and "" is the default port to some and an error to others, so both are refused.
- Nothing is decoded: a percent sign in a host is refused, in a path it is forwarded as it came.

Decided once: paths are forwarded byte for byte, dot segments and "//" included (there is no path
policy here, so nothing is matched that is not sent). A backslash is a slash to browsers and their
kin, so it is refused in a path; in a query it is data. Space, controls and non-ASCII have been
refused with the request line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.http.bad_request import BadRequest, shown_target
from nono_trio.core.http.head_errors import authority_fault, target_fault
from nono_trio.core.net.host import BadHost, Host, parse_host

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead

MAX_PORT: Final = 65535
HTTP_PORT: Final = 80

_HOST = r"(\[[^\[\]/?#@\\]*\]|[^:\[\]/?#@\\]+)"  # what may be in it is parse_host's to say
_AUTHORITY = re.compile(rf"{_HOST}:([1-9][0-9]{{0,4}})")
_HTTP_URL = re.compile(
    rf"(?i:http)://{_HOST}(?::([1-9][0-9]{{0,4}}))?"
    r"(/[^?#\\]*)?(\?[^#]*)?"
)


class HttpTarget(msgspec.Struct, frozen=True):
    """Where a plain HTTP request goes.

    `authority` is the Host value to send: canonical, with the port only if it is not 80. `path` is
    the target to send: origin-form with its query, or b"*" for OPTIONS of a whole server (RFC 9112
    3.2.4).
    """

    host: Host
    port: int
    authority: bytes
    path: bytes

    @property
    def absolute(self) -> bytes:
        """The target for another proxy: absolute-form, without a path for a whole server."""
        return b"http://" + self.authority + (b"" if self.path == b"*" else self.path)


def connect_target(head: RequestHead) -> tuple[Host, int]:
    """Host and port of a CONNECT (authority-form; the port is required). Raises BadRequest 400."""
    match = _AUTHORITY.fullmatch(head.target)
    if match is None:
        raise _refused(head, authority_fault(head.target))
    return _host(head, match[1]), _port(head, match[2])


def http_target(head: RequestHead) -> HttpTarget:
    """Host, port and path of a request in absolute-form, http:// only. Raises BadRequest 400."""
    match = _HTTP_URL.fullmatch(head.target)
    if match is None:
        raise _refused(head, target_fault(head.target))
    host = _host(head, match[1])
    port = HTTP_PORT if match[2] is None else _port(head, match[2])
    authority = host.bracketed() if port == HTTP_PORT else f"{host.bracketed()}:{port}"
    path = _origin_form(head.method, match[3], match[4])
    return HttpTarget(host, port, authority.encode("ascii"), path.encode("ascii"))


def _origin_form(method: str, path: str | None, query: str | None) -> str:
    if path is None and query is None and method == "OPTIONS":
        return "*"
    return (path or "/") + (query or "")


def _host(head: RequestHead, text: str) -> Host:
    try:
        return parse_host(text)
    except BadHost as fault:
        raise _refused(head, fault.reason) from None


def _port(head: RequestHead, digits: str) -> int:
    port = int(digits)
    if port > MAX_PORT:
        raise _refused(head, f"the port is above {MAX_PORT}")
    return port


def _refused(head: RequestHead, reason: str) -> BadRequest:
    return BadRequest(400, reason, shown_target(head.target.encode("latin-1", "replace")))
