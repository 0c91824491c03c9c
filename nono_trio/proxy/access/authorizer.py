"""What can be decided about a request without leaving this process: syntax, token, policy by name.

The order gives each input one answer: what is malformed is a 400 whoever sent it, without the token
everything is a 407, so nobody without it learns what the policy allows.

Rules of this file: no I/O and no waiting, so a name that is denied here has been seen by nobody.
For one session the answer is a function of the head's bytes, so CONNECT heads are remembered: a
tool sends the same one for each connection to a host, and reading it again would cost a third of
a denial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.core.http.request_head import presented_token
from nono_trio.core.policy.allow_entry import entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, with_allow_entry
from nono_trio.core.policy.rule import ALLOW_FLAG
from nono_trio.proxy.access import token
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.access.request import Request, malformed_subject, read_request

if TYPE_CHECKING:
    from nono_trio.core.http.bad_request import BadRequest
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.decision import Subject
    from nono_trio.proxy.upstream.resolver import AddressResolver

MEMORY: Final = 256  # heads remembered, cleared when full, for the child chooses them
MAX_REMEMBERED: Final = 1024  # bytes of such a head; 0.25 MiB for all of them


class Authorizer(Protocol):
    """What decides about the requests of a connection. It does no I/O and doesn't wait."""

    def judge(self, raw: bytes, unread: bytes) -> tuple[Request, Refusal | None, bytes]:
        """The request whose head is `raw`, why it is refused if it is, and what of `unread` stands
        behind its body so far. Raises BadRequest."""
        ...

    def malformed(self, raw: bytes, fault: BadRequest) -> tuple[Subject, Refusal]:
        """What an event can say about a request that could not be read, and the answer to it."""
        ...


class RequestAuthorizer:
    """Judges requests to the proxy. `directory` knows which addresses are the proxy's own."""

    def __init__(self, policy: Policy, token: token.Token, directory: AddressResolver) -> None:
        self._policy = policy
        self._token = token
        self._directory = directory
        self._known: dict[bytes, tuple[Request, Refusal | None]] = {}

    def judge(self, raw: bytes, unread: bytes) -> tuple[Request, Refusal | None, bytes]:
        """As `Judge.judge`."""
        known = self._known.get(raw)
        if known is not None:
            return *known, unread
        request, rest = read_request(raw, unread)
        refusal = self._refusal(request)
        if request.plain is None and len(raw) <= MAX_REMEMBERED:
            self._remember(raw, request, refusal)
        return request, refusal, rest

    def malformed(self, raw: bytes, fault: BadRequest) -> tuple[Subject, Refusal]:
        """As `Judge.malformed`."""
        return malformed_subject(raw, fault), Refusal(fault.status, fault.reason)

    def forget(self) -> None:
        """Judge everything anew; for when a listener was added."""
        self._known.clear()

    def _remember(self, raw: bytes, request: Request, refusal: Refusal | None) -> None:
        if request.subject.presented != "succeeded":
            return  # guesses of a token are compared each time, in constant time
        if len(self._known) >= MEMORY:
            self._known.clear()
        self._known[raw] = (request, refusal)

    def _refusal(self, request: Request) -> Refusal | None:
        presented = presented_token(request.head)
        if presented is None:
            return Refusal(407, token.MISSING, token.HINT, "authentication_failed")
        if not self._token.matches(presented):
            request.subject.presented = "failed"
            return Refusal(407, token.WRONG, token.HINT, "authentication_failed")
        request.subject.presented = "succeeded"
        host, port = request.host, request.port
        if host.address is not None and self._directory.is_own(host.name, port):
            return Refusal(403, format_reason(DenialCode.IS_PROXY), category="host_denied")
        verdict = self._policy.decide(host, port)
        if not verdict.allowed:
            return Refusal(403, verdict.reason or "denied", verdict.hint, "host_denied")
        if request.plain is None:
            request.spoken = verdict.inspection.spoken(port)
        elif verdict.tls_only:
            return _not_tls(entry(host.name, port))
        request.subject.note = verdict.note
        return None


def _not_tls(plain_entry: str) -> Refusal:
    """For a plain request to where the entry that allows it says that TLS is spoken."""
    reason = format_reason(DenialCode.TLS_ONLY, destination=plain_entry)
    reason = with_allow_entry(reason, plain_entry)
    return Refusal(403, reason, f"allow it with {ALLOW_FLAG} {plain_entry}", "host_denied")
