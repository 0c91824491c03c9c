"""Authorizes HTTP requests on a connection to the origin server: a transparent connection, a
CONNECT tunnel, or either of them under TLS that ends here.

Rules of this file:
- No I/O and no waiting, as in authorizer.py.
- No token is asked for. Only the cage reaches the transparent listener, and the CONNECT had it.
- A connection to a name carries requests for that name only; otherwise one allowed name would open
  every site of its server. On a connection to a literal address the Host field of each request is
  decided by name, and the address itself is decided if the request has no Host field.
- The caller has the verdict about the connection's host. It decides the requests for that host too.
- A host whose requests must be seen has each of them judged by method and path. The URL that is
  judged is made of the connection's host and port.
- Under TLS the host is the one of the handshake, also for a literal address.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.http.request_head import parse_head
from nono_trio.core.http.target import HTTP_PORT, HTTPS_PORT, origin_target
from nono_trio.core.late import late_pattern
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, with_allow_entry
from nono_trio.core.policy.rule import ALLOW_FLAG, TCP_SCHEME
from nono_trio.proxy.access.authorizer import HttpRequest, Request, decided, judged, read_http
from nono_trio.proxy.access.decision import Decision, Refusal, refusal_of

if TYPE_CHECKING:
    from nono_trio.core.http.bad_request import BadRequest
    from nono_trio.core.log.events import AuthOutcome, Mode
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.policy_verdict import Verdict

_REQUEST_LINE: Final = late_pattern(rb"[A-Za-z]+ .* HTTP/1\.[0-9]", re.DOTALL)
_BEGINS_ONE: Final = late_pattern(rb"[A-Za-z]+ ")


class TransparentAuthorizer:
    """Authorizes the requests of one connection to `host`, a name or a literal address.

    `verdict` is the policy's about host and port.
    """

    _scheme = "http"
    _scheme_port = HTTP_PORT
    _mode: Mode = "reverse"
    _other_status = 403

    def __init__(
        self,
        policy: Policy,
        host: Host,
        port: int,
        verdict: Verdict,
        presented: AuthOutcome | None = None,
    ) -> None:
        self._policy = policy
        self._presented = presented
        self._host = host
        self._port = port
        self._verdict = verdict

    def authorize(self, raw: bytes, unread: bytes) -> tuple[Request, Decision, bytes]:
        """As `Authorizer.authorize`."""
        head = parse_head(raw)
        target = origin_target(head, self._host, self._port, self._scheme_port)
        request, rest = read_http(head, target, unread)
        return request, self._decide(request, target.host), rest

    def _decide(self, request: HttpRequest, host: Host) -> Decision:
        if host == self._host:
            verdict = self._verdict
        elif self._is_one_host:
            return self._decided(request, None, self._other(host))
        else:
            verdict = self._policy.decide(host, self._port)
        decision = self._decided(request, verdict, refusal_of(verdict))
        if verdict.intercepted:
            return judged(self._policy, self._scheme, request, decision)
        return decision

    @property
    def _is_one_host(self) -> bool:
        """True if requests for other hosts than the connection's are refused unasked."""
        return self._host.address is None

    def _decided(
        self, request: HttpRequest, verdict: Verdict | None, refusal: Refusal | None
    ) -> Decision:
        return decided(request, self._presented, verdict, refusal)

    def malformed(self, raw: bytes, fault: BadRequest) -> Decision:
        """As `Authorizer.malformed`; the target is the host of the connection. If policy refuses
        the host, that is the reason: half a request to it is an attempt, not a broken one."""
        if _is_http(raw):
            refusal = refusal_of(self._verdict) or Refusal(fault.status, fault.reason)
            return self._about_connection(refusal)
        return self._no_http(DenialCode.NO_HTTP, fault.status)

    def unasked(self) -> Decision | None:
        """As `Authorizer.unasked`: a program may connect only to see whether it can."""
        refusal = refusal_of(self._verdict)
        return None if refusal is None else self._about_connection(refusal)

    def server_first(self) -> Decision:
        """The decision about a connection on which the server spoke before the client."""
        return self._no_http(DenialCode.SERVER_BEFORE_HTTP)

    def _no_http(self, code: DenialCode, status: int = 400) -> Decision:
        if self._verdict.intercepted:
            seen = not_seen(self._policy, DenialCode.INTERCEPTED_NO_TLS, self._host, status)
            return self._about_connection(refusal_of(self._verdict) or seen)
        allow_entry = entry(self._host.name, self._port, TCP_SCHEME)
        hint = f"allow it with {ALLOW_FLAG} {allow_entry}"
        reason = with_allow_entry(format_reason(code), allow_entry)
        return self._about_connection(Refusal(status, reason, hint, "host_denied"))

    def _about_connection(self, refusal: Refusal) -> Decision:
        return Decision(
            self._mode,
            self._host.name,
            self._port,
            presented=self._presented,
            host=self._host,
            verdict=self._verdict,
            refusal=refusal,
        )

    def _other(self, host: Host) -> Refusal:
        reason = format_reason(
            DenialCode.OTHER_HOST_FIELD, asked=host.bracketed(), host=self._host.bracketed()
        )
        return Refusal(self._other_status, reason, category="host_denied")


class InterceptedAuthorizer(TransparentAuthorizer):
    """Authorizes the requests of one connection whose TLS ends here."""

    _scheme = "https"
    _scheme_port = HTTPS_PORT
    _mode: Mode = "connect_intercept"
    _other_status = 421  # RFC 9110 15.5.20

    @property
    def _is_one_host(self) -> bool:
        return True

    def _decided(
        self, request: HttpRequest, verdict: Verdict | None, refusal: Refusal | None
    ) -> Decision:
        return replace(super()._decided(request, verdict, refusal), mode=self._mode)

    def _no_http(self, code: DenialCode, status: int = 400) -> Decision:
        code = DenialCode.INTERCEPTED_NO_HTTP
        return self._about_connection(not_seen(self._policy, code, self._host, status))

    def silent(self) -> Decision | None:
        """The decision about a client that waits for the server to speak first; None on the port of
        https, where programs open connections that they may need later."""
        if self._port == HTTPS_PORT:
            return None
        code = DenialCode.INTERCEPTED_SILENT
        return self._about_connection(not_seen(self._policy, code, self._host))


def not_seen(policy: Policy, code: DenialCode, host: Host, status: int = 400) -> Refusal:
    """The refusal of bytes that are no requests, on a connection whose requests must be seen."""
    flag = policy.no_intercept_flag(host)
    hint = None if flag is None else f"leave the host alone with {flag}"
    return Refusal(status, format_reason(code), hint, "host_denied")


def _is_http(raw: bytes) -> bool:
    """True if the client means to send HTTP/1, also if it does so badly."""
    line, ended, _ = raw.partition(b"\n")
    if ended:
        return _REQUEST_LINE.fullmatch(line.removesuffix(b"\r")) is not None
    return _BEGINS_ONE.match(line) is not None
