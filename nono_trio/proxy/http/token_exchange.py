"""The steps of a request to the token URL of a captured login.

Rules of this file:
- Whether a request is one is judged by its canonical path, which is then the one that goes out. At
  a host with a token URL a path that servers read in different ways is refused, and so is a field
  by which some take another path.
- Its body is read whole before it is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET
from msgspec.structs import replace

from nono_trio.core.http.header_fields import with_length
from nono_trio.core.http.mcp_message import BadMessage
from nono_trio.core.http.message import BodyData, body_events
from nono_trio.core.http.override_fields import is_override_field
from nono_trio.core.http.websocket import offered_key
from nono_trio.core.policy.endpoint_path import BadPath, canonical_target
from nono_trio.proxy.access.decision import CredentialUse, Refusal
from nono_trio.proxy.credentials.token_requests import ENCODING_FIELD, TokenRequest
from nono_trio.proxy.http.message_body import read_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.credentials.token_requests import Login
    from nono_trio.proxy.http.rewrite import OutgoingRequest
    from nono_trio.proxy.transport.client import Client

_OVERRIDES: Final = "a field of the request may name the path of a token URL"
_WEBSOCKET: Final = "a token URL opens no WebSocket"


async def judge_token_request(
    client: Client,
    request: HttpRequest,
    decision: Decision,
    logins: Sequence[Login],
    *,
    scheme: str,
    seconds: float,
) -> tuple[TokenRequest | None, Decision]:
    """Return the request to a token URL (None for another request), and the decision.

    Its body is read first; it has `seconds`. Raises Expired for a client whose place was given
    away.
    """
    host = request.host
    if decision.refusal is not None or not any(one.settings.is_at_host(host) for one in logins):
        return None, decision
    try:
        target = canonical_target(request.target.path.decode("ascii")).text
    except BadPath as bad:
        return None, decision.refused(_malformed(f"the path {bad.reason}"))
    if any(is_override_field(name) for name, _ in request.head.fields):
        return None, decision.refused(_malformed(_OVERRIDES))
    request.target = replace(request.target, path=target.encode("ascii"))
    login = next((one for one in logins if one.settings.captures(host, target)), None)
    if login is None:
        return None, decision
    if offered_key(request.head) is not None:
        return None, decision.refused(_malformed(_WEBSOCKET))
    tokens = TokenRequest(login, scheme, host, request.port)
    body = b""
    if request.head.body != "none":
        try:
            body = await read_body(client, request, seconds)
        except BadMessage as fault:
            reason = f"the request to a token URL {fault.reason}"
            return None, decision.refused(_malformed(reason, fault.status))
        request.carry(body)
    tokens.take_body(request.head.first(b"content-type"), body)
    if tokens.has_tokens:
        names = (tokens.name,)
        decision = replace(decision, credentials=CredentialUse(swapped=names, in_body=names))
    return tokens, decision


def with_tokens(
    request: HttpRequest, outgoing: OutgoingRequest, tokens: TokenRequest
) -> OutgoingRequest:
    """The request as it goes out. `request` carries its whole body."""
    events = request.early if outgoing.early is None else outgoing.early
    data = b"".join(one.data for one in events if type(one) is BodyData)
    body = tokens.take_body(request.head.first(b"content-type"), data)
    if request.head.body != "none":
        events = body_events(request.stream_id, body, ended=True, trailers=request.body.trailers)
    started = outgoing.started
    fields = [
        (name, b"identity" if name.lower() == ENCODING_FIELD else value)
        for name, value in with_length(started.fields, len(body))
    ]
    return replace(outgoing, started=replace(started, fields=fields), early=events)


def _malformed(reason: str, status: int = 400) -> Refusal:
    return Refusal(status, reason, category=UNSET)
