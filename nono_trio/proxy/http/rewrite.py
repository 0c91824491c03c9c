"""Rewrites an allowed request into the request that the upstream gets.

The head is made anew from a head that `core.http.request_head` has accepted: Host from the target,
no hop-by-hop field, no token. Credentials for the upstream belong here.

Servers differ on bodies. Many do not read the body of a method that has no body in practice, and
take its bytes for the next request of the connection, which runs without a record. So such a
request is sent as the connection's last, with the field that every server obeys (RFC 9112 9.6). The
field reaches the next hop only, so a body that begins as a request is not sent at all
(core/http/hidden_request.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.http.hidden_request import has_unusual_body
from nono_trio.core.http.http1 import CLOSE
from nono_trio.core.http.message import RequestStarted
from nono_trio.core.http.trailers import TE_FIELD, announced, takes_trailers
from nono_trio.core.http.websocket import UPGRADE_FIELDS, offered_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.message import BodyData, MessageEnded, RequestHead
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.upstream.proxy_chain import ProxyChain

_HOST: Final = frozenset({b"host"})
_EXTENSIONS: Final = frozenset({b"sec-websocket-extensions"})
_HOST_AND_EXPECT: Final = frozenset({b"host", b"expect"})


class OutgoingRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as the upstream gets it; its body follows unchanged."""

    started: RequestStarted
    connection: tuple[Field, ...]
    """The fields about the upstream's connection, and about trailers."""
    is_last: bool
    """True if the head says that no other request follows on the upstream's connection."""
    websocket_key: bytes | None
    """The key of the WebSocket handshake that the request begins; None if it begins none."""
    is_judged: bool = False
    """True if endpoint rules have decided about the request."""
    early: tuple[BodyData | MessageEnded, ...] | None = None
    """The first part of the body that goes out; None: the part that came with the head."""


def rewrite(
    request: HttpRequest,
    chain: ProxyChain | None,
    *,
    is_judged: bool = False,
    drops_extensions: bool = False,
) -> OutgoingRequest:
    """The request that goes out. An upstream proxy gets it in absolute form, with its credentials
    (RFC 9112 3.2.2). Fields keep the case in which the client wrote them. `drops_extensions`: a
    WebSocket is offered without them, since its messages must be read.

    No Via is added (RFC 9110 7.6.3 asks for it): some servers stop compressing when they see one,
    and a loop through this proxy is denied by address.
    """
    head, target = request.head, request.target
    is_last, websocket_key = has_unusual_body(head), offered_key(head)
    dropped = _HOST if head.expects_continue else _HOST_AND_EXPECT
    if drops_extensions:
        dropped |= _EXTENSIONS
    fields: Sequence[Field] = head.block.end_to_end(dropped)
    if chain is not None and chain.proxy.authorization is not None:
        fields = [(b"Proxy-Authorization", chain.proxy.authorization), *fields]
    started = RequestStarted(
        request.stream_id,
        head.method.encode("ascii"),
        target.path if chain is None else target.absolute,
        target.authority,
        fields,
    )
    connection = UPGRADE_FIELDS if websocket_key is not None else _connection(head, is_last=is_last)
    return OutgoingRequest(started, connection, is_last, websocket_key, is_judged)


def _connection(head: RequestHead, *, is_last: bool) -> tuple[Field, ...]:
    """The fields about the connection and the trailers of a request without an upgrade."""
    names = announced(head.fields) if head.body == "chunked" else ()
    if not takes_trailers(head):
        return ((CLOSE,) if is_last else ()) + names
    options = b"close, TE" if is_last else b"TE"  # RFC 9110 10.1.4: it is named as an option
    return ((b"Connection", options), TE_FIELD, *names)
