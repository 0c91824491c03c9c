"""Judges plain HTTP from programs that believe to speak to the origin server itself: those that
know of no proxy, and those that opened a tunnel to the server's port 80 with CONNECT.

Rules of this file: no token is asked for, since the listener can be reached from inside the cage
only, or the CONNECT had it; a connection to a name carries requests for that name and no other, or
one allowed name would open all that its server hosts; on a connection to a literal address each
request's Host field is decided by name, and the address itself is decided where there is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nono_trio.core.http.origin_form import origin_target
from nono_trio.core.http.request_head import parse_head
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, with_allow_entry
from nono_trio.core.policy.rule import ALLOW_FLAG, TCP_SCHEME
from nono_trio.proxy.access.decision import Refusal, Subject
from nono_trio.proxy.access.request import Request, read_plain

if TYPE_CHECKING:
    from nono_trio.core.http.bad_request import BadRequest
    from nono_trio.core.log.events import AuthOutcome
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy

_REQUEST_LINE: Final = re.compile(rb"[A-Za-z]+ .* HTTP/1\.[0-9]", re.DOTALL)
_BEGINS_ONE: Final = re.compile(rb"[A-Za-z]+ ")


def judged(policy: Policy, host: Host, port: int) -> Refusal | None:
    """Why policy refuses a host and port, by name alone; None if it does not."""
    verdict = policy.decide(host, port)
    if verdict.allowed:
        return None
    return Refusal(403, verdict.reason or "denied", verdict.hint, "host_denied")


class TransparentAuthorizer:
    """The judge of one connection to `host` (a name, or a literal that stands for no name)."""

    def __init__(
        self, policy: Policy, host: Host, port: int, presented: AuthOutcome | None = None
    ) -> None:
        self._policy = policy
        self._presented = presented
        self._host = host
        self._port = port

    def judge(self, raw: bytes, unread: bytes) -> tuple[Request, Refusal | None, bytes]:
        """As `gate.Judge.judge`."""
        head = parse_head(raw)
        target = origin_target(head, self._host, self._port)
        request, rest = read_plain(head, target, unread)
        request.subject.presented = self._presented
        refusal = self._refusal(target.host)
        if refusal is None:
            request.subject.note = self._policy.decide(target.host, self._port).note
        return request, refusal, rest

    def malformed(self, raw: bytes, fault: BadRequest) -> tuple[Subject, Refusal]:
        """As `gate.Judge.malformed`: the connection has told where it goes."""
        if _is_http(raw):
            return self._subject, Refusal(fault.status, fault.reason)
        return self._no_http(DenialCode.NO_HTTP, fault.status)

    def server_first(self) -> tuple[Subject, Refusal]:
        """About a connection on which the server has spoken and the client has not."""
        return self._no_http(DenialCode.SERVER_BEFORE_HTTP)

    def _no_http(self, code: DenialCode, status: int = 400) -> tuple[Subject, Refusal]:
        allow_entry = entry(self._host.name, self._port, TCP_SCHEME)
        hint = f"allow it with {ALLOW_FLAG} {allow_entry}"
        reason = with_allow_entry(format_reason(code), allow_entry)
        return self._subject, Refusal(status, reason, hint, "host_denied")

    @property
    def _subject(self) -> Subject:
        return Subject("reverse", self._host.name, self._port, presented=self._presented)

    def _refusal(self, host: Host) -> Refusal | None:
        if self._host.address is None and host != self._host:
            reason = format_reason(
                DenialCode.OTHER_HOST_FIELD,
                asked=host.bracketed(),
                host=self._host.bracketed(),
            )
            return Refusal(403, reason, category="host_denied")
        return judged(self._policy, host, self._port)


def _is_http(raw: bytes) -> bool:
    """Whether the client means to speak HTTP/1, however badly."""
    line, ended, _ = raw.partition(b"\r\n")
    if ended:
        return _REQUEST_LINE.fullmatch(line) is not None
    return _BEGINS_ONE.match(line) is not None
