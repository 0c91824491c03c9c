"""Judges plain HTTP from programs that believe to speak to the origin server itself.

Rules of this file: no token is asked for, since the listener can be reached from inside the cage
only; a connection to a name carries requests for that name and no other, or one allowed name would
open all that its server hosts; on a connection to a literal address each request's Host field is
decided by name, and the address itself is decided where there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.heads import parse_head
from nono_trio.core.origin_form import origin_target
from nono_trio.proxy.decisions import Refusal, Subject
from nono_trio.proxy.request import Request, read_plain

if TYPE_CHECKING:
    from nono_trio.core.bad_request import BadRequest
    from nono_trio.core.hosts import Host
    from nono_trio.core.policy import Policy


def judged(policy: Policy, host: Host, port: int) -> Refusal | None:
    """Why policy refuses a host and port, by name alone; None if it does not."""
    verdict = policy.decide(host, port)
    if verdict.allowed:
        return None
    return Refusal(403, verdict.reason or "denied", verdict.hint, "host_denied")


class OriginGate:
    """The judge of one connection to `host` (a name, or a literal that stands for no name)."""

    def __init__(self, policy: Policy, host: Host, port: int) -> None:
        self._policy = policy
        self._host = host
        self._port = port

    def judge(self, raw: bytes, unread: bytes) -> tuple[Request, Refusal | None, bytes]:
        """As `gate.Judge.judge`."""
        head = parse_head(raw)
        target = origin_target(head, self._host, self._port)
        request, rest = read_plain(head, target, unread)
        refusal = self._refusal(target.host)
        if refusal is None:
            request.subject.note = self._policy.decide(target.host, self._port).note
        return request, refusal, rest

    def malformed(self, _raw: bytes, _fault: BadRequest) -> Subject:
        """As `gate.Judge.malformed`: the connection has told where it goes."""
        return Subject("reverse", self._host.name, self._port)

    def _refusal(self, host: Host) -> Refusal | None:
        if self._host.address is None and host != self._host:
            reason = (
                f"the Host field asks for {host.bracketed()},"
                f" but the connection is to {self._host.bracketed()}"
            )
            return Refusal(403, reason, category="host_denied")
        return judged(self._policy, host, self._port)
