"""The steps of a request in a session with credentials: searched, judged, and written with secrets.

Rules of this file:
- What came of a request is searched before it is recorded, so one refusal is one record. What comes
  later is searched on its way (`searches_of`).
- Nothing of a request goes out before its secrets are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from nono_trio.core.http.header_fields import with_length
from nono_trio.core.http.mcp_message import BadMessage
from nono_trio.core.http.message import body_events
from nono_trio.proxy.access.authorizer import HttpRequest
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.http.exchange import Searches
from nono_trio.proxy.http.message_body import hold_body
from nono_trio.proxy.http.rewrite import rewrite
from nono_trio.proxy.http.token_exchange import judge_token_request, with_tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nono_trio.proxy.access.authorizer import Request
    from nono_trio.proxy.access.decision import Decision, Recorded
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.credentials.request_guard import RequestGuard
    from nono_trio.proxy.http.rewrite import OutgoingRequest
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.upstream.proxy_chain import ProxyChain


async def judge_request(
    client: Client,
    request: Request,
    decision: Decision,
    credentials: Credentials,
    *,
    scheme: str,
    seconds: float,
) -> tuple[RequestGuard | None, Decision]:
    """Search for stand-ins, and see which of them are to be swapped: return the request's guard
    (None for a CONNECT) and the decision.

    A body in which one may have to be swapped is read first; it has `seconds`. Raises Expired
    for a client whose place was given away.
    """
    if decision.refusal is None or decision.refusal.status == 403:
        decision = credentials.judge_name(decision)
    if type(request) is not HttpRequest:
        return None, decision
    guard = credentials.guard(scheme, request.host, request.port)
    if credentials.logins:
        guard.tokens, decision = await judge_token_request(
            client, request, decision, credentials.logins, scheme=scheme, seconds=seconds
        )
    decision = guard.judge_head(request, decision)
    if decision.refusal is None and guard.wants_body(request):
        try:
            await hold_body(client, request, seconds, guard.max_body)
        except BadMessage as fault:
            return guard, decision.refused(Refusal(fault.status, f"the body {fault.reason}"))
    return guard, guard.judge_body(request, decision)


async def rewrite_guarded(
    request: HttpRequest, decision: Decision, chain: ProxyChain | None, guard: RequestGuard
) -> OutgoingRequest:
    """The request that goes out, with secrets in the place of stand-ins. Raises MustNotGoOn.

    A WebSocket is offered without extensions if its messages must be read.
    """
    outgoing = rewrite(
        request, chain, is_judged=decision.is_judged, drops_extensions=guard.searches
    )
    if guard.swaps:
        outgoing = await _swapped(request, outgoing, chain, guard)
    return outgoing if guard.tokens is None else with_tokens(request, outgoing, guard.tokens)


async def _swapped(
    request: HttpRequest, outgoing: OutgoingRequest, chain: ProxyChain | None, guard: RequestGuard
) -> OutgoingRequest:
    """The request with secrets in its head, and in its body. Raises MustNotGoOn."""
    fields = outgoing.started.fields
    lowered = [(name.lower(), value) for name, value in fields]
    swapped = await guard.swap(request.target.path, lowered, request)
    written = {name.lower(): name for name, _ in fields}  # a signature may add fields
    fields = [(written.get(name, name), value) for name, value in swapped.fields]
    early = None
    if swapped.body is not None:
        trailers = request.body.trailers
        early = body_events(request.stream_id, swapped.body, ended=True, trailers=trailers)
        fields = with_length(fields, len(swapped.body))
    target = replace(request.target, path=swapped.target)
    shown = target.path if chain is None else target.absolute
    started = replace(outgoing.started, target=shown, fields=fields)
    return replace(outgoing, started=started, early=early)


def searches_of(
    guard: RequestGuard,
    request: HttpRequest,
    recorded: Recorded,
    record: Callable[[Decision], Awaitable[Recorded]],
    *,
    is_websocket: bool,
) -> Searches | None:
    """Return what looks for stand-ins while a request is on its way; None if nothing does."""
    body = guard.body_search(request, recorded.decision)
    websocket = guard.websocket_search() if is_websocket else None
    if body is None and websocket is None:
        return None

    async def note(names: tuple[str, ...]) -> None:
        decision = recorded.decision
        for name in names:
            decision = decision.with_passed_on(name)
        await record(decision)

    return Searches(body, websocket, note)
