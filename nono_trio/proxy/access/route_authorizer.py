"""Authorizes requests to the proxy itself in a session with reverse routes.

A request in origin-form is for a route: the first segment of its path names the credential, and the
rest goes to the credential's host. All others are authorized as in a session without routes.

Rules of this file:
- No I/O and no waiting, as in authorizer.py.
- The request must show the stand-in of the route's credential, or the token of the proxy.
- Host and request are judged as those of an intercepted request are: by the URL of the upstream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from nono_trio.core.credentials.route import MECHANISMS, shown_place, split_target
from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.header_fields import presented_token
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.authorizer import (
    RequestAuthorizer,
    Token,
    decided,
    judged,
    read_http,
)
from nono_trio.proxy.access.decision import Refusal, refusal_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.credentials.route import Route
    from nono_trio.core.log.events import AuthOutcome
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.authorizer import HttpRequest, Request
    from nono_trio.proxy.access.decision import Decision

NO_STAND_IN: Final = Refusal(
    401,
    format_reason(DenialCode.STAND_IN_MISSING),
    "send the value of the credential's variable as the key of the service",
    "authentication_failed",
)


class HeldRoute(Protocol):
    """A route and the stand-in that its requests show. No implementation may show the stand-in in
    its `repr`."""

    @property
    def route(self) -> Route:
        """The destination of its requests."""
        ...

    @property
    def stand_in(self) -> bytes:
        """The stand-in of the route's credential."""
        ...


class RouteAuthorizer(RequestAuthorizer):
    """Authorizes requests to the proxy itself, and to its routes."""

    def __init__(self, policy: Policy, token: Token, routes: Sequence[HeldRoute]) -> None:
        super().__init__(policy, token, has_stand_ins=True)
        self._routes = {one.route.name: one for one in routes}

    def authorize(self, raw: bytes, unread: bytes) -> tuple[Request, Decision, bytes]:
        """As `Authorizer.authorize`."""
        if not raw.partition(b" ")[2].startswith(b"/"):
            return super().authorize(raw, unread)
        head = parse_head(raw)
        named = split_target(head.target)
        held = None if named is None or head.method == "CONNECT" else self._routes.get(named[0])
        if named is None or held is None:
            raise BadRequest(404, "no route of the proxy has this path")
        route = held.route
        request, rest = read_http(head, route.target(named[1]), unread)
        request.over_tls = route.scheme == "https"
        return request, self._decide_routed(request, held), rest

    def _decide_routed(self, request: HttpRequest, held: HeldRoute) -> Decision:
        route = held.route
        token = presented_token(request.head.first(b"proxy-authorization"))
        has_token = token is not None and self._token.matches(token)
        place = shown_place(request.head, request.target.path, route.credential, held.stand_in)
        if place is None and not has_token:
            failed: AuthOutcome | None = None if token is None else "failed"
            decision = decided(request, failed, refusal=NO_STAND_IN)
            return replace(decision, route=route.name)
        verdict = self._policy.decide(route.host, route.port)
        decision = decided(request, "succeeded", verdict, refusal_of(verdict))
        mechanism = None if place is None else MECHANISMS[place]
        decision = replace(decision, route=route.name, mechanism=mechanism)
        if verdict.intercepted:
            return judged(self._policy, route.scheme, request, decision)
        return decision
