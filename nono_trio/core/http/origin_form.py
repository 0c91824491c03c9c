"""Requests as an origin server gets them: a path as the target, the host in a field.

What a program sends that knows of no proxy. RFC 9112 3.2.1 and 3.2.4, RFC 9110 7.2.

Rules of this file: the result is the same `HttpTarget` as for absolute-form, so all behind it
is shared; the Host field is read as narrowly as an authority there; a field that names another port
than the connection's is refused, for it is another server. Paths are treated as in target.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nono_trio.core.http.bad_request import BadRequest, shown_target
from nono_trio.core.http.target import HTTP_PORT, HttpTarget
from nono_trio.core.net.host import BadHost, Host, parse_host

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead

_PATH = re.compile(r"/[^?#\\]*(?:\?[^#]*)?")
_HOST_FIELD = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?")


def origin_target(head: RequestHead, fallback: Host, port: int) -> HttpTarget:
    """Where a request in origin-form goes that came in on a connection to `port`.

    The host is that of the Host field, or `fallback` without one (HTTP/1.0). Raises BadRequest 400.
    """
    whole_server = head.target == "*" and head.method == "OPTIONS"
    if head.method == "CONNECT" or not (whole_server or _PATH.fullmatch(head.target)):
        shown = shown_target(head.target.encode("latin-1", "replace"))
        raise BadRequest(400, "expected a path as the target", shown)
    host = _host(head, port) or fallback
    authority = host.bracketed() if port == HTTP_PORT else f"{host.bracketed()}:{port}"
    return HttpTarget(host, port, authority.encode("ascii"), head.target.encode("ascii"))


def _host(head: RequestHead, port: int) -> Host | None:
    field = head.first(b"host")
    if field is None:
        return None
    match = _HOST_FIELD.fullmatch(field.decode("latin-1"))
    if match is None:
        raise BadRequest(400, "the host field is not HOST or HOST:PORT")
    if int(match[2] or HTTP_PORT) != port:
        raise BadRequest(400, "the host field names another port than the connection's", match[1])
    try:
        return parse_host(match[1])
    except BadHost as fault:
        raise BadRequest(400, fault.reason) from None
