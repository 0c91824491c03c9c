"""A decision: the request, the verdict of the policy, and the refusal if it is refused.

Rules of this file:
- A decision is a value. A later finding (a bad address, a dead upstream) is a second decision.
- Its record is made before it takes effect, so `status` is null there and `reason` is our own text.
- `path` has no values of the query. No decision contains the token, or what a client presented
  instead of it.
- What follows from a decision alone (its event but for the time, where it leads) is computed once:
  most requests have a decision that is remembered with their head (authorizer.py). `replace` makes
  a decision without any of it.
- Every network event of a request, a look-up or a refused connection comes from `Decision.event`.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from nono_trio.core.log.events import Flow, NetworkEvent
from nono_trio.core.policy.request_note import with_call, with_credentials

if TYPE_CHECKING:
    from nono_trio.core.log.events import (
        AuthMechanism,
        AuthOutcome,
        ClosedBy,
        DenialCategory,
        InjectionMode,
        Mode,
    )
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.endpoint_verdict import EndpointVerdict, JudgesMessages
    from nono_trio.core.policy.policy_verdict import Verdict
    from nono_trio.core.policy.rule import Spoken


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a request is refused: HTTP status and text of the answer, category of the record."""

    status: int
    reason: str
    hint: str | None = None
    category: DenialCategory | UnsetType = UNSET
    message_id: int | str | None = None
    """The id of a refused MCP request; None for a refusal that is answered by its status."""


class CredentialUse(msgspec.Struct, frozen=True, gc=False):
    """The credentials in a request, by their names.

    `swapped` get their secret there, first in the place `mode`. Those of them that get it in the
    body are `in_body`. The stand-ins of `passed_on` are not swapped and go on.
    """

    swapped: tuple[str, ...] = ()
    mode: InjectionMode | UnsetType = UNSET
    in_body: tuple[str, ...] = ()
    passed_on: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, dict=True):  # it caches properties
    """One decision. It allows unless it has a refusal."""

    mode: Mode
    target: str
    """The host's name. For a malformed request: the readable part of its target, or ""."""
    port: int | None = None
    method: str | None = None
    path: str | None = None
    presented: AuthOutcome | None = None
    """Outcome of the comparison with the token; None if the client presented none."""
    host: Host | None = None
    """The host; None if the request is malformed."""
    verdict: Verdict | None = None
    """The policy's verdict about host and port by name; None if it was not asked."""
    refusal: Refusal | None = None
    upstream: str | None = None
    """The upstream proxy that the connection goes through; None if the host is dialled."""
    endpoint: EndpointVerdict | None = None
    """The verdict about the request itself; None if only the host was decided."""
    route: str | None = None
    """The reverse route that the request came by."""
    mechanism: AuthMechanism | None = None
    """The way in which the client has presented the stand-in of a route; None for the token."""
    credentials: CredentialUse | None = None
    """The credentials in the request; None for most."""

    @property
    def rule(self) -> str | None:
        """The policy entry that decided, as its author wrote it; None for a built-in rule."""
        return None if self.verdict is None else self.verdict.rule

    @property
    def is_judged(self) -> bool:
        """True if endpoint rules have decided about the request."""
        return self.endpoint is not None and self.endpoint.action is not None

    @property
    def note(self) -> str | None:
        """The text about the entry, and about what is in the request, in the record of an allowed
        request; None for a plain entry."""
        use = self.credentials
        if use is None:
            return self._note
        return with_credentials(self._note, use.in_body, use.passed_on)

    @property
    def _note(self) -> str | None:
        """The note without credentials. It leaves out the full names of a short host if an upstream
        proxy looks the host up."""
        verdict, endpoint = self.verdict, self.endpoint
        if verdict is None:
            return None
        if endpoint is not None and endpoint.observed and endpoint.by_default:
            verdict = replace(verdict, observed=True)  # an audit rule names itself
        note = None
        if verdict.is_noted:
            note = verdict.note if self.upstream is None else verdict.entry_note
        if endpoint is None or endpoint.call is None:
            return note
        return with_call(note, endpoint.call)

    @cached_property
    def destination(self) -> tuple[Host, int]:
        """Host and port to connect to. Raises AssertionError for a refused or malformed request."""
        if self.refusal is not None or self.host is None or self.port is None:
            raise AssertionError("only an allowed request may be connected")
        return self.host, self.port

    @property
    def allowing_verdict(self) -> Verdict:
        """The verdict that allows. Raises AssertionError for a refused request."""
        if self.refusal is not None or self.verdict is None:
            raise AssertionError("policy has not allowed this request")
        return self.verdict

    @cached_property
    def spoken(self) -> Spoken:
        """The protocol that the connection of an allowed request must carry. Raises AssertionError
        for a refused or malformed request."""
        if self.port is None:
            raise AssertionError("a malformed request has no connection")
        return self.allowing_verdict.inspection.spoken(self.port)

    @property
    def messages(self) -> JudgesMessages | None:
        """The MCP rules that must judge the body of an allowed request first; None for most."""
        return None if self.endpoint is None else self.endpoint.messages

    def refused(self, refusal: Refusal) -> Decision:
        """The second decision about the same request, which refuses it."""
        return replace(self, refusal=refusal)

    def with_passed_on(self, credential: str) -> Decision:
        """The same decision with the name of a credential whose stand-in goes on unswapped."""
        use = self.credentials or CredentialUse()
        if credential in use.passed_on:
            return self
        use = replace(use, passed_on=(*use.passed_on, credential))
        return replace(self, credentials=use)

    def through(self, upstream: str) -> Decision:
        """The same decision for a host that is reached through an upstream proxy."""
        mode = self.mode if self.mode == "connect_intercept" else "external"
        return replace(self, mode=mode, upstream=upstream)

    def event(self, now: int, more: str = "") -> NetworkEvent:
        """The record of this decision; `now` in milliseconds since 1970.

        `more` is appended to the reason of a refusal.
        """
        if more and self.refusal is not None:
            return replace(self._event, timestamp_unix_ms=now, reason=self.refusal.reason + more)
        return replace(self._event, timestamp_unix_ms=now)

    @cached_property
    def _event(self) -> NetworkEvent:
        """The record, without its time."""
        presented, refusal, endpoint = self.presented, self.refusal, self.endpoint
        use = self.credentials
        swapped = () if use is None else use.swapped
        return NetworkEvent(
            timestamp_unix_ms=0,
            mode=self.mode,
            decision="allow" if refusal is None else "deny",
            route_id=",".join(swapped) or self.route or UNSET,
            managed_credential_active=True if swapped and refusal is None else UNSET,
            injection_mode=UNSET if use is None or refusal is not None else use.mode,
            auth_mechanism=UNSET if presented is None else self.mechanism or "proxy_authorization",
            auth_outcome=UNSET if presented is None else presented,
            denial_category=UNSET if refusal is None else refusal.category,
            endpoint_policy_action=UNSET if endpoint is None else endpoint.action or UNSET,
            endpoint_policy_rule=UNSET if endpoint is None else endpoint.rule or UNSET,
            target=self.target,
            upstream=self.upstream or UNSET,
            port=self.port,
            method=self.method,
            path=self.path,
            reason=self.note if refusal is None else refusal.reason,
        )


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A decision that is in the log, and its sequence there. Only a recorded decision may take
    effect."""

    decision: Decision
    sequence: int


def refusal_of(verdict: Verdict) -> Refusal | None:
    """The refusal for a verdict of the policy; None if it allows."""
    if verdict.allowed:
        return None
    return Refusal(403, verdict.reason or "denied", verdict.hint, "host_denied")


def host_denied(
    target: str, port: int | None, reason: str, *, method: str | None = None
) -> Decision:
    """The refusal of a look-up, or the record of a connection that the kernel refused."""
    refusal = Refusal(403, reason, category="host_denied")
    return Decision("connect", target, port, method, refusal=refusal)


class FlowStart(msgspec.Struct):
    """Begin of the flow of an allowed request: `address` is connected (None for a connection that
    ends here), `name` is the full name that has the address if that is not the target."""

    recorded: Recorded
    address: str | None
    opened_unix_ms: int
    name: str | UnsetType = UNSET
    started: float = msgspec.field(default_factory=time.monotonic)

    def end(
        self,
        bytes_up: int,
        bytes_down: int,
        closed_by: ClosedBy,
        status: int | UnsetType = UNSET,
        first_byte: float | None = None,
    ) -> Flow:
        """The line of flows.ndjson, now that the flow has ended. `first_byte`: when the first byte
        of the answer came, in seconds of the monotonic clock."""
        recorded, started = self.recorded, self.started
        decision = recorded.decision
        return Flow(
            sequence=recorded.sequence,
            target=decision.target,
            port=decision.port,
            address=self.address,
            opened_unix_ms=self.opened_unix_ms,
            duration_ms=int((time.monotonic() - started) * 1000),
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            closed_by=closed_by,
            name=self.name,
            status=status,
            first_byte_ms=UNSET if first_byte is None else int((first_byte - started) * 1000),
        )
