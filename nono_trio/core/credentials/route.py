"""A reverse route: http://127.0.0.1:PORT/NAME/... on the proxy's listener, for one credential.

It is for clients that can't be intercepted. They take the route as the base URL of the service, and
send their stand-in there. What follows /NAME in the path goes to the credential's host.

Rules of this file:
- A route has one host, which is no wildcard; the request never chooses it.
- The rest of the path is read as endpoint rules read it. What has no safe reading, or climbs out of
  the route, is refused.
- A request shows that it is the command's by its stand-in, or by the proxy's token. All that may be
  the stand-in is compared in constant time.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote_to_bytes

from nono_trio.core.credentials.credential import Place
from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.header_fields import basic_parts
from nono_trio.core.http.target import HTTP_PORT, HTTPS_PORT, HttpTarget
from nono_trio.core.late import late_pattern
from nono_trio.core.policy.endpoint_path import BadPath, canonical_target
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nono_trio.core.credentials.credential import Credential
    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.log.events import AuthMechanism
    from nono_trio.core.net.host import Host

ROUTE_FLAG: Final = "--credential-route"

# How a record names the place of the stand-in that a request showed.
MECHANISMS: Final[Mapping[Place, AuthMechanism]] = {
    Place.HEADER: "phantom_header",
    Place.BASIC: "phantom_header",
    Place.QUERY: "phantom_query",
    Place.PATH: "phantom_path",
}

_TARGET: Final = late_pattern(r"/([a-z0-9_-]{1,32})([/?].*)?")
_BASIC: Final = late_pattern(rb"[Bb][Aa][Ss][Ii][Cc] +([A-Za-z0-9+/=]+)")
_AROUND: Final = late_pattern(rb"[\s,;\"']+")  # what is before and after a token in a field
_AWS_KEY: Final = late_pattern(rb"Credential=([^/,\s]+)/")
_AWS_PARAMETER: Final = b"X-Amz-Credential"


@dataclass(frozen=True, slots=True)
class Route:
    """A route and the destination of its requests."""

    credential: Credential
    scheme: Literal["http", "https"]
    host: Host
    port: int

    @property
    def name(self) -> str:
        """The first segment of its paths: the name of the credential."""
        return self.credential.name

    @property
    def authority(self) -> bytes:
        """The value of Host for the host."""
        default = HTTPS_PORT if self.scheme == "https" else HTTP_PORT
        shown = self.host.bracketed()
        return (shown if self.port == default else f"{shown}:{self.port}").encode("ascii")

    def base_url(self, listener: str) -> str:
        """Return the base URL for clients; `listener` is HOST:PORT of the proxy."""
        return f"http://{listener}/{self.name}{self.credential.base_url_path}"

    def target(self, rest: str) -> HttpTarget:
        """Return the target of a request for `rest`, what followed /NAME. Raises BadRequest."""
        rest = rest if rest.startswith("/") else f"/{rest}"
        try:
            text = canonical_target(rest).text
        except BadPath as fault:
            raise BadRequest(400, f"the path {fault.reason}", self.host.name) from None
        return HttpTarget(self.host, self.port, self.authority, text.encode("ascii"))


def make_route(credential: Credential) -> Route:
    """Return the route of a credential. Raises UsageError for one that is bound to many hosts,
    and for a login."""
    if credential.login is not None:
        raise UsageError(
            f"credential {credential.name}: a login can't have a route, as its tokens have a"
            " stand-in each",
            hint="have its requests seen instead, without a route",
        )
    hosts = credential.hosts
    if len(hosts) != 1 or hosts[0].wildcard:
        raise UsageError(
            f"credential {credential.name}: a route needs one host, and it is bound to"
            f" {'a wildcard' if len(hosts) == 1 else len(hosts)}",
            hint=f"name the host, as in --credential {credential.name}@HOST",
        )
    return Route(credential, hosts[0].scheme, hosts[0].host, hosts[0].port)


def split_target(target: str) -> tuple[str, str] | None:
    """Return the name of a route and the rest of the target; None for one that names no route."""
    match = _TARGET.fullmatch(target)
    return None if match is None else (match[1], match[2] or "")


def shown_place(
    head: RequestHead, target: bytes, credential: Credential, stand_in: bytes
) -> Place | None:
    """Return the place in which a request to a route shows the stand-in; None without it."""
    found = None
    for place, text in _candidates(head, target, credential):
        if hmac.compare_digest(text, stand_in) and found is None:
            found = place
    return found


def _candidates(
    head: RequestHead, target: bytes, credential: Credential
) -> Iterator[tuple[Place, bytes]]:
    for name, value in head.fields:
        if name.decode("latin-1") in credential.headers:
            yield Place.HEADER, value
            yield Place.HEADER, value.partition(b" ")[2].strip()
            for token in _AROUND.split(value):
                yield Place.HEADER, token
        if name == b"authorization":
            if basic := _BASIC.fullmatch(value):
                yield from ((Place.BASIC, side) for side in basic_parts(basic[1]))
            yield from ((Place.HEADER, key) for key in _AWS_KEY.findall(value))
    path, _, query = target.partition(b"?")
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        decoded = unquote_to_bytes(value)
        if name == _AWS_PARAMETER:
            decoded = decoded.partition(b"/")[0]
        elif unquote_to_bytes(name).decode("latin-1").lower() not in credential.parameters:
            continue
        yield Place.QUERY, decoded
    if Place.PATH in credential.places:
        for segment in path.split(b"/"):
            yield Place.PATH, unquote_to_bytes(segment)
