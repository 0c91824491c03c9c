"""Authorizes the TLS hello of a connection: which host it may ask for.

On a connection to a name the hello must ask for that name. On a connection to a literal address it
may ask for any allowed name. A hello without a name is right for a literal address alone (RFC 6066
3 allows no addresses as a name, so the entry for the address says that no name is expected);
otherwise it needs an entry tls://HOST.

Such an entry also lets a hello hide its name (ECH). Only the server knows then which name is asked
for, and it may serve other names behind it: that is the price of the entry, and the reason why a
plain entry is not enough. The outer name must be the host, or an allowed name: an allowed public
name of the server leads nowhere new, and another one is refused as any name that is not on the
list, so that a reviewer of the list sees it. An outer name whose requests must be seen may be the
one that is meant (ECH can be pretended), so it never goes through unseen: on a connection to a name
it is refused, on one to a literal address it is intercepted.

Rules of this file:
- No I/O and no waiting, as in authorizer.py.
- A transparent connection and a CONNECT tunnel get the same answer.
- The caller has the verdict about the connection's host, so only a question about another host
  goes to the policy.
- The reason of a refusal names the entry that would allow it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.net.client_hello import BadHello, ClientHello
from nono_trio.core.net.host import BadHost, Host, parse_host
from nono_trio.core.policy.allow_entry import allow_entry, entry
from nono_trio.core.policy.reasons import DenialCode, format_reason, with_allow_entry
from nono_trio.core.policy.rule import (
    ALLOW_FLAG,
    TCP_SCHEME,
    TLS_SCHEME,
    Inspection,
)
from nono_trio.proxy.access.decision import Decision, Refusal, refusal_of
from nono_trio.proxy.access.hello_guard import UnreadHello, UnseenHello

if TYPE_CHECKING:
    from nono_trio.core.log.events import AuthOutcome
    from nono_trio.core.net.hello_retry import OtherHello
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.core.policy.policy_verdict import Verdict

# RFC 9110 15.5.20, as a mark for a hello that asks for another name. No answer has this status.
MISDIRECTED: Final = 421


class HelloAuthorizer:
    """Authorizes the hello of one connection to `host`, a name or a literal address.

    `verdict` is the policy's about host and port. `presented` is the outcome of the comparison with
    the token; None on a transparent connection.
    """

    __slots__ = ("_host", "_policy", "_port", "_presented", "_verdict")

    def __init__(
        self,
        policy: Policy,
        host: Host,
        port: int,
        verdict: Verdict,
        presented: AuthOutcome | None = None,
    ) -> None:
        self._policy = policy
        self._host = host
        self._port = port
        self._verdict = verdict
        self._presented = presented

    def authorize(self, hello: ClientHello) -> Decision:
        """The decision about the host that the hello asks for."""
        host = self._host
        is_literal = host.address is not None
        may_hide = _may_hide(self._verdict)
        try:
            asked = host if hello.server_name is None else parse_host(hello.server_name)
        except BadHost as fault:
            reason = format_reason(DenialCode.BAD_SERVER_NAME, detail=fault.reason)
            return self._about(host, self._verdict, _misdirected(reason))
        if hello.hides_name:
            return self._hidden(asked if is_literal and not self._is_meant() else host, asked)
        if hello.server_name is None and not is_literal and not may_hide:
            return self._about(
                host, self._verdict, self._needs_tls(DenialCode.NO_SERVER_NAME, host)
            )
        if is_literal or asked == host:
            verdict = self._decide(asked)
            return self._about(asked, verdict, refusal_of(verdict))
        reason = format_reason(
            DenialCode.OTHER_SERVER_NAME, asked=asked.bracketed(), host=host.bracketed()
        )
        return self._about(asked, None, _misdirected(reason))

    def malformed(self, fault: BadHello) -> Decision:
        """The decision about bytes that are no hello."""
        refusal = _bad(fault.reason) if fault.is_tls else self._no_tls(fault.reason)
        return self._about(self._host, self._verdict, refusal)

    def server_first(self) -> Decision:
        """The decision about a connection on which the server spoke before the client."""
        return self._about(
            self._host, self._verdict, self._no_tls(format_reason(DenialCode.SERVER_BEFORE_TLS))
        )

    def _hidden(self, host: Host, outside: Host) -> Decision:
        """The decision about a hello to `host` that hides its name behind another, `outside`."""
        verdict = self._decide(host)
        refusal = refusal_of(verdict)
        if refusal is not None:
            return self._about(host, verdict, self._with_tls_entry(refusal, host))
        if not _may_hide(verdict):
            refusal = self._needs_tls(DenialCode.HIDDEN_SERVER_NAME, host)
        if refusal is None and outside != host:
            outer = self._decide(outside)
            refusal = refusal_of(outer)
            if refusal is None and outer.intercepted and not verdict.intercepted:
                if self._host.address is None:
                    refusal = _misdirected(_elsewhere(outside, host))
                return self._about(outside, outer, refusal)
            if refusal is not None:
                return self._about(outside, outer, refusal)
        return self._about(host, verdict, refusal)

    def _is_meant(self) -> bool:
        """Return whether an entry is about the literal address of the connection, so that a hello
        with a hidden name is for that address. `--intercept all` is about every host."""
        verdict, endpoints = self._verdict, self._policy.endpoints
        if verdict.inspection >= Inspection.TLS:
            return True
        return verdict.intercepted and endpoints is not None and endpoints.names(self._host)

    def _decide(self, host: Host) -> Verdict:
        return self._verdict if host == self._host else self._policy.decide(host, self._port)

    def _about(self, host: Host, verdict: Verdict | None, refusal: Refusal | None) -> Decision:
        return Decision(
            "connect", host.name, self._port, "TLS", None, self._presented, host, verdict, refusal
        )

    def _needs_tls(self, code: DenialCode, host: Host) -> Refusal:
        allow_entry = entry(host.name, self._port, TLS_SCHEME)
        return _misdirected(with_allow_entry(format_reason(code), allow_entry))

    def _with_tls_entry(self, refusal: Refusal, host: Host) -> Refusal:
        """Name the entry that a hello with a hidden name needs, where a refusal misses an entry.
        Other refusals stay as they are."""
        missing = allow_entry(host.name, self._port, refusal.reason)
        if missing is None:
            return refusal
        needed = entry(host.name, self._port, TLS_SCHEME)
        reason = format_reason(DenialCode.NOT_ALLOWED, destination=missing)
        return replace(
            refusal,
            reason=with_allow_entry(reason, needed),
            hint=f"allow it with {ALLOW_FLAG} {needed}",
        )

    def _no_tls(self, reason: str) -> Refusal:
        if self._verdict.intercepted:
            flag = self._policy.no_intercept_flag(self._host)
            entry_text = entry(self._host.name, self._port, TCP_SCHEME)
            hint = None if flag is None else f"allow it with {flag} {ALLOW_FLAG} {entry_text}"
            return refusal_of(self._verdict) or Refusal(400, reason, hint, "host_denied")
        return _bad(with_allow_entry(reason, entry(self._host.name, self._port, TCP_SCHEME)))


def second_hello(first: Decision, fault: BadHello | OtherHello) -> Decision:
    """The decision about a second hello on the connection that `first` has allowed, or about one
    that must not be there or can't be read. Its target is the host that a second hello asks for, if
    that can be read."""
    name = first.target
    if isinstance(fault, UnreadHello):
        refusal = _bad(fault.reason)
    elif isinstance(fault, BadHello):
        refusal = _bad(format_reason(DenialCode.SECOND_HELLO_BAD, detail=fault.reason))
    elif isinstance(fault, UnseenHello):
        host = Host(first.target) if first.host is None else first.host
        asked = parse_host(fault.hello.server_name or "")
        refusal = _misdirected(_elsewhere(asked, host))
    else:
        refusal = _misdirected(format_reason(DenialCode.SECOND_HELLO_OTHER))
        with suppress(BadHost):
            name = parse_host(fault.hello.server_name or name).name
    return Decision("connect", name, first.port, "TLS", None, first.presented, refusal=refusal)


def _may_hide(verdict: Verdict) -> bool:
    # The hello of an intercepted connection is answered here, with a certificate of its host.
    return verdict.inspection >= Inspection.TLS or verdict.intercepted


def _elsewhere(asked: Host, host: Host) -> str:
    code = DenialCode.INTERCEPTED_ELSEWHERE
    return format_reason(code, asked=asked.bracketed(), host=host.bracketed())


def _bad(reason: str) -> Refusal:
    return Refusal(400, reason, category="host_denied")


def _misdirected(reason: str) -> Refusal:
    return Refusal(MISDIRECTED, reason, category="host_denied")
