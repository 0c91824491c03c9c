"""Authorizes requests to the proxy: syntax, token, policy by name.

The order gives each input one answer. A malformed request is a 400, with or without a token. A
request without the token is a 407, so that a client without it learns nothing of the policy. RFC
9110 leaves this order open.

Rules of this file:
- No I/O and no waiting (an import-linter contract keeps sockets and the event loop out). A name
  that is denied here was never looked up.
- The policy is asked once a request.
- Body bytes that came with the head are checked here too: bad framing must not cost a dial.
- In one session the decision is a function of the head's bytes, so heads without a body are
  remembered: a tool sends the same head for each connection to a host, and parsing it costs a third
  of a denial. Remembered is no head with a secret but the session's token: nothing that its record
  leaves out of the path (a query, a user in a URL), and no field that may have a secret
  (core/http/field_block.py). What is judged by path is judged each time.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeAlias, final

import msgspec
from msgspec.structs import replace

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.body import Body, LengthBody
from nono_trio.core.http.chunked import BadBody, ChunkedBody
from nono_trio.core.http.field_block import MAX_REMEMBERED, MEMORY, MOST_FIELDS, remember
from nono_trio.core.http.header_fields import presented_token
from nono_trio.core.http.hidden_request import REASON, HiddenRequest, has_unusual_body
from nono_trio.core.http.message import HTTP1_STREAM, BodyData, MessageEnded, body_events
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.http.target import connect_target, http_target
from nono_trio.core.http.websocket import offered_key
from nono_trio.core.log.redaction import redact_path
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, with_allow_entry
from nono_trio.core.policy.rule import ALLOW_FLAG
from nono_trio.proxy.access.decision import Decision, Refusal, refusal_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.mcp_message import BadMessage
    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.http.target import HttpTarget
    from nono_trio.core.log.events import AuthOutcome, Mode
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.endpoint_verdict import EndpointVerdict, JudgesMessages
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.policy_verdict import Verdict

_TOKEN_HINT: Final = "use the proxy URL of HTTP_PROXY, with its user and password"
NO_TOKEN: Final = Refusal(
    407, format_reason(DenialCode.TOKEN_MISSING), _TOKEN_HINT, "authentication_failed"
)
WRONG_TOKEN: Final = Refusal(
    407, format_reason(DenialCode.TOKEN_WRONG), _TOKEN_HINT, "authentication_failed"
)


@final
class ConnectRequest(msgspec.Struct, frozen=True, gc=False):
    """A CONNECT: the client asks for a tunnel to `host`."""

    mode: ClassVar[Mode] = "connect"
    path: ClassVar[str | None] = None
    has_open_body: ClassVar[bool] = False
    over_tls: ClassVar[bool] = False

    head: RequestHead
    host: Host
    port: int


@final
class HttpRequest(msgspec.Struct, gc=False):
    """A plain HTTP request to `target`. `path` is what the record shows, `early` is what came of
    the body with the head, and `body` reads the rest."""

    mode: ClassVar[Mode] = "reverse"

    head: RequestHead
    host: Host
    port: int
    target: HttpTarget
    path: str
    body: Body
    early: tuple[BodyData | MessageEnded, ...]
    stream_id: int = HTTP1_STREAM
    over_tls: bool = False
    """True if it goes out over TLS although it came without: to a reverse route."""

    @property
    def has_open_body(self) -> bool:
        """True if the client has not sent all of the body yet."""
        return not self.body.done

    def carry(self, data: bytes) -> None:
        """Take along what was read of the body, all of it or its beginning. The client has sent it,
        so it waits for no 100 Continue."""
        ended = self.body.done
        trailers = self.body.trailers if ended else ()
        self.early = body_events(self.stream_id, data, ended=ended, trailers=trailers)
        if self.head.expects_continue:
            self.head = replace(self.head, expects_continue=False)


Request: TypeAlias = ConnectRequest | HttpRequest


class Token:
    """The session token. Only the caged command has it; every other client gets a 407.

    It is in no answer, no event and no `repr`.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("ascii")

    def matches(self, presented: bytes) -> bool:
        """Compare in constant time. Bytes, because `str` outside ASCII raises TypeError."""
        return hmac.compare_digest(presented, self._secret)


class Authorizer(Protocol):
    """Decides about the requests of a connection. It does no I/O and does not wait."""

    def authorize(self, raw: bytes, unread: bytes) -> tuple[Request, Decision, bytes]:
        """Return the request whose head is `raw`, the decision about it, and the bytes of `unread`
        that follow its body so far. Raises BadRequest."""
        ...

    def malformed(self, raw: bytes, fault: BadRequest) -> Decision:
        """Return the decision about a request that could not be parsed."""
        ...

    def unasked(self) -> Decision | None:
        """Return the decision about a connection on which no request came; None if it needs no
        decision."""
        ...


class RequestAuthorizer:
    """Authorizes requests to the proxy itself."""

    def __init__(self, policy: Policy, token: Token, *, has_stand_ins: bool = False) -> None:
        """`has_stand_ins`: a path may have one, so that no head with a path is remembered."""
        self._policy = policy
        self._token = token
        self._has_stand_ins = has_stand_ins
        self._remembered: dict[bytes, tuple[Request, Decision]] = {}

    @property
    def remembered(self) -> Sequence[Decision]:
        """The decisions whose heads are remembered."""
        return [decision for _, decision in self._remembered.values()]

    def authorize(self, raw: bytes, unread: bytes) -> tuple[Request, Decision, bytes]:
        """As `Authorizer.authorize`."""
        remembered = self._remembered.get(raw)
        if remembered is not None:
            request, decision = remembered
            if type(request) is HttpRequest:
                request = replace(request)  # the given one may be changed on its way
            return request, decision, unread
        request, rest = read_request(raw, unread)
        decision = self._decide(request)
        if decision.presented == "succeeded":  # a guess is compared each time, in constant time
            self._remember(raw, request, decision)
        return request, decision, rest

    def malformed(self, raw: bytes, fault: BadRequest) -> Decision:
        """As `Authorizer.malformed`."""
        mode: Mode = "connect" if raw.startswith(b"CONNECT") else "reverse"
        return Decision(mode, fault.target, refusal=Refusal(fault.status, fault.reason))

    def unasked(self) -> Decision | None:
        """As `Authorizer.unasked`: a connection to the proxy without a request is no attempt."""
        return None

    def _remember(self, raw: bytes, request: Request, decision: Decision) -> None:
        head = request.head
        remember(head.block, has_right_token=True)
        if len(raw) > MAX_REMEMBERED or len(head.fields) > MOST_FIELDS:
            return
        if not head.block.has_only_token:
            return
        if type(request) is HttpRequest:
            verdict = decision.verdict
            is_judged = verdict is None or verdict.intercepted
            is_shown = request.path.encode("ascii") == request.target.path  # the record has it all
            if head.body != "none" or is_judged or self._has_stand_ins or not is_shown:
                return
            request = replace(request)  # as in `authorize`
        if len(self._remembered) >= MEMORY:  # all at once, since the child chooses them
            self._remembered.clear()
        self._remembered[raw] = (request, decision)

    def _decide(self, request: Request) -> Decision:
        presented, refusal = self._authenticate(request.head)
        if refusal is not None:
            return decided(request, presented, refusal=refusal)
        verdict = self._policy.decide(request.host, request.port)
        refusal = refusal_of(verdict)
        if isinstance(request, HttpRequest):
            if verdict.allowed and verdict.tls_only:
                refusal = _not_tls(entry(request.host.name, request.port))
            elif verdict.intercepted:
                decision = decided(request, presented, verdict, refusal)
                return judged(self._policy, "http", request, decision)
        return decided(request, presented, verdict, refusal)

    def _authenticate(self, head: RequestHead) -> tuple[AuthOutcome | None, Refusal | None]:
        presented = presented_token(head.first(b"proxy-authorization"))
        if presented is None:
            return None, NO_TOKEN
        if not self._token.matches(presented):
            return "failed", WRONG_TOKEN
        return "succeeded", None


def decided(
    request: Request,
    presented: AuthOutcome | None,
    verdict: Verdict | None = None,
    refusal: Refusal | None = None,
) -> Decision:
    """The decision about a request."""
    host = request.host
    return Decision(
        request.mode,
        host.name,
        request.port,
        request.head.method,
        request.path,
        presented,
        host,
        verdict,
        refusal,
    )


def judged(policy: Policy, scheme: str, request: HttpRequest, decision: Decision) -> Decision:
    """The decision by method and path about a request whose host's verdict says `intercepted`.

    The request is changed to the spelling that was judged: that one is sent and recorded. A host
    that no entry opens stays refused, also where its rules (which then only deny) have nothing
    against the request.
    """
    head = request.head
    verdict = policy.endpoint_verdict(
        scheme,
        request.host,
        request.port,
        head.method,
        request.target.path.decode("ascii"),
        [name for name, _ in head.fields],
    )
    request.path = verdict.path
    if verdict.target:
        request.target = replace(request.target, path=verdict.target.encode("ascii"))
    if verdict.allowed and decision.refusal is not None:
        return decision
    messages = verdict.messages
    if messages is not None:
        if offered_key(head) is not None:
            verdict = messages.upgrade()
        elif not messages.are_about(has_body=head.length > 0 or head.body == "chunked"):
            verdict = replace(verdict, messages=None)
    return with_endpoint(decision, verdict)


def with_endpoint(decision: Decision, verdict: EndpointVerdict) -> Decision:
    """The decision with the verdict about the request itself, or about one of its messages."""
    refusal = None
    if not verdict.allowed:
        refusal = Refusal(
            verdict.status,
            verdict.reason or "denied",
            verdict.hint,
            "endpoint_policy",
            verdict.message_id,
        )
    elif verdict.is_observed and decision.verdict is not None:  # its record says so
        decision = replace(decision, verdict=replace(decision.verdict, observed=True))
    return replace(decision, path=verdict.path, endpoint=verdict, refusal=refusal)


def judged_messages(request: HttpRequest, decision: Decision, body: bytes) -> tuple[Decision, ...]:
    """The decisions about the MCP messages in the body of a request, which carries it then; one
    that refuses is alone."""
    messages = _messages(decision)
    request.carry(body)
    verdicts = messages.judge(request.head.fields, body)
    return tuple(with_endpoint(decision, verdict) for verdict in verdicts)


def unreadable(decision: Decision, fault: BadMessage) -> Decision:
    """The refusal of a request whose body can't be read as MCP messages."""
    return with_endpoint(decision, _messages(decision).unreadable(fault))


def _messages(decision: Decision) -> JudgesMessages:
    if decision.messages is None:
        raise AssertionError("no MCP rule is about this request")
    return decision.messages


def read_request(raw: bytes, unread: bytes) -> tuple[Request, bytes]:
    """Return the request whose head is `raw`, and the bytes of `unread` that follow its body so
    far. Raises BadRequest."""
    head = parse_head(raw)
    if head.method == "CONNECT":
        return ConnectRequest(head, *connect_target(head)), unread
    return read_http(head, http_target(head), unread)


def read_http(head: RequestHead, target: HttpTarget, unread: bytes) -> tuple[HttpRequest, bytes]:
    """Return a plain request to `target`, otherwise as `read_request`. Raises BadRequest."""
    path = redact_path(target.path.decode("ascii"))
    body = ChunkedBody() if head.body == "chunked" else LengthBody(head.length)
    try:
        early, taken = body.read(unread)
    except BadBody as fault:
        raise BadRequest(400, fault.reason, target.host.name) from fault
    if has_unusual_body(head) and HiddenRequest().is_in(early):
        raise BadRequest(400, REASON, target.host.name)
    events = body_events(HTTP1_STREAM, early, ended=body.done, trailers=body.trailers)
    request = HttpRequest(head, target.host, target.port, target, path, body, events)
    return request, unread[taken:]


def _not_tls(plain_entry: str) -> Refusal:
    """The refusal of a plain request to a host whose entry says TLS."""
    reason = format_reason(DenialCode.TLS_ONLY, destination=plain_entry)
    reason = with_allow_entry(reason, plain_entry)
    return Refusal(403, reason, f"allow it with {ALLOW_FLAG} {plain_entry}", "host_denied")
