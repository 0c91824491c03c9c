r"""Request-targets: the host, port and path that a request asks for. RFC 9112 3.2, read narrowly.

A proxy gets a CONNECT in authority-form and other requests in absolute-form. An origin server gets
requests in origin-form, with the host in the Host field: programs that know of no proxy send those.
All forms but the first have the same result, an `HttpTarget`.

Rules of this file:
- In the forms for a proxy the target alone says where the request goes, and never a Host field
  (which is rewritten when forwarding). In origin-form the Host field says it, and is read as
  narrowly as an authority. One that names another port than the connection's is refused: that is
  another server.
- No URL library: `urlsplit` strips controls, takes "[::1]evil" and lets "\@" move the host.
- A port is 1 to 65535 in at most five ASCII digits without a leading zero: "0443" is octal to
  some, and "" is the default port to some and an error to others, so both are refused.
- Nothing is decoded. A percent sign in a host is refused; in a path it is forwarded as it came.

Decided once: paths are forwarded byte for byte, dot segments and "//" included (there is no path
policy here, so nothing is matched that is not sent). A backslash is a slash to browsers, so it is
refused in a path; in a query it is data. Space, controls and non-ASCII were refused with the
request line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.http.bad_request import BadRequest, shown_target
from nono_trio.core.http.head_errors import authority_fault, target_fault
from nono_trio.core.late import late_pattern
from nono_trio.core.net.host import BadHost, Host, parse_host

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead

MAX_PORT: Final = 65535
HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443

_HOST = r"(\[[^\[\]/?#@\\]*\]|[^:\[\]/?#@\\]+)"  # parse_host decides about what is in it
_AUTHORITY = late_pattern(rf"{_HOST}:([1-9][0-9]{{0,4}})")
_HTTP_URL = late_pattern(
    rf"(?i:http)://{_HOST}(?::([1-9][0-9]{{0,4}}))?"
    r"(/[^?#\\]*)?(\?[^#]*)?"
)
_PATH = late_pattern(r"/[^?#\\]*(?:\?[^#]*)?")
_HOST_FIELD = late_pattern(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?")


class HttpTarget(msgspec.Struct, frozen=True, gc=False):
    """The target of an HTTP request.

    `authority` is the Host value to send: canonical, without the port that the scheme means. `path`
    is the target to send: origin-form with its query, or b"*" for OPTIONS of a whole server (RFC
    9112 3.2.4).
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
    """The target of a request in absolute-form, http:// only. Raises BadRequest 400."""
    match = _HTTP_URL.fullmatch(head.target)
    if match is None:
        raise _refused(head, target_fault(head.target))
    host = _host(head, match[1])
    port = HTTP_PORT if match[2] is None else _port(head, match[2])
    path = _origin_form(head.method, match[3], match[4])
    return HttpTarget(host, port, _authority(host, port), path.encode("ascii"))


def origin_target(
    head: RequestHead, fallback: Host, port: int, scheme_port: int = HTTP_PORT
) -> HttpTarget:
    """The target of a request in origin-form on a connection to `port`. RFC 9112 3.2.1, 3.2.4.

    The host is that of the Host field, or `fallback` without one (HTTP/1.0). `scheme_port` is the
    port that a Host field without one means. Raises BadRequest 400.
    """
    whole_server = head.target == "*" and head.method == "OPTIONS"
    if head.method == "CONNECT" or not (whole_server or _PATH.fullmatch(head.target)):
        raise _refused(head, "expected a path as the target")
    host = _field_host(head, port, scheme_port) or fallback
    authority = _authority(host, port, scheme_port)
    return HttpTarget(host, port, authority, head.target.encode("ascii"))


def _origin_form(method: str, path: str | None, query: str | None) -> str:
    if path is None and query is None and method == "OPTIONS":
        return "*"
    return (path or "/") + (query or "")


def _authority(host: Host, port: int, scheme_port: int = HTTP_PORT) -> bytes:
    shown = host.bracketed()
    return (shown if port == scheme_port else f"{shown}:{port}").encode("ascii")


def _field_host(head: RequestHead, port: int, scheme_port: int) -> Host | None:
    field = head.first(b"host")
    if field is None:
        return None
    match = _HOST_FIELD.fullmatch(field.decode("latin-1"))
    if match is None:
        raise BadRequest(400, "the host field is not HOST or HOST:PORT")
    if int(match[2] or scheme_port) != port:
        raise BadRequest(400, "the host field names another port than the connection's", match[1])
    try:
        return parse_host(match[1])
    except BadHost as fault:
        raise BadRequest(400, fault.reason) from None


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
