"""Transparent connections that are relayed unchanged, from programs that know of no proxy.

The order is that of http/connection.py: decided by name, recorded, and only then looked up and
dialled. On port 443 the decision waits for the TLS hello, so that there is one decision, which also
covers the name in the hello; a name that is denied anyway is refused without waiting.

Which name a hello may ask for is in access/hello_authorizer.py. On a connection to a literal
address the name of the hello is dialled.

Rules of this file: a refusal is something the program can report: a TLS alert where TLS is spoken,
a reset elsewhere, and never bytes that could be taken for the server's. The recorded reason names
the entry that would allow the connection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import HelloRetry
from nono_trio.proxy.access.decision import Decision, Refusal, refusal_of
from nono_trio.proxy.access.hello_authorizer import MISDIRECTED, HelloAuthorizer
from nono_trio.proxy.connection_handler import (
    BUSY,
    FULL,
    ConnectionHandler,
    ProxyContext,
    UpstreamError,
)
from nono_trio.proxy.first_bytes import read_hello

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.policy_verdict import Verdict
    from nono_trio.proxy.transport.client import Client

_FATAL: Final = 2
_INTERNAL_ERROR: Final = 80
# RFC 8446 6.2, the closest alert for each status: access_denied, unrecognized_name, decode_error.
_ALERTS: Final = {403: 49, MISDIRECTED: 112, 400: 50}


class RawTunnel(ConnectionHandler):
    """A tunnel to `host`: the name that the connection's address belongs to, or that address.

    `verdict` is what policy says of host and port.
    """

    __slots__ = ("_host", "_port", "_retry", "_speaks_tls", "_verdict")

    method = "TCP"
    is_for_tls = False

    def __init__(
        self,
        client: Client,
        proxy_context: ProxyContext,
        *,
        full: bool,
        host: Host,
        port: int,
        verdict: Verdict,
    ) -> None:
        super().__init__(client, proxy_context, full=full)
        self._host = host
        self._port = port
        self._verdict = verdict
        self._speaks_tls = self.is_for_tls  # until its first bytes say otherwise
        self._retry: HelloRetry | None = None

    async def _serve(self) -> None:
        if self._full:  # what policy refuses is never a lack of room
            decision: Decision | None = self._about(refusal_of(self._verdict) or FULL)
        else:
            decision = await self._authorize()
        if decision is None:
            return
        decision = self._proxy.judge_name(decision)
        if not self._client.prove() and decision.refusal is None:
            decision = decision.refused(FULL)
        if decision.refusal is None:
            decision = await self._pass(self._proxy.route(decision))
        if decision.refusal is not None:
            await self._record(decision)
            await self._answer(decision.refusal)

    async def _authorize(self) -> Decision | None:
        """The decision about the host; None if the client asked for nothing."""
        return self._about(refusal_of(self._verdict))

    def _about(self, refusal: Refusal | None) -> Decision:
        return Decision(
            "connect",
            self._host.name,
            self._port,
            self.method,
            host=self._host,
            verdict=self._verdict,
            refusal=refusal,
        )

    def _unasked(self) -> Decision | None:
        refusal = refusal_of(self._verdict)
        return None if refusal is None else self._about(refusal)

    async def _pass(self, decision: Decision) -> Decision:
        """Record an allowed decision, connect and relay; returns the decision that holds then,
        which refuses a host that is out of reach."""
        self._client.deadline = math.inf
        recorded = await self._record(decision)
        try:
            upstream = await self._connect(recorded)
        except UpstreamError as found:
            return decision.refused(found.refusal)
        self._end_with_tunnel(upstream, recorded, b"", retry=self._retry)
        return decision

    async def _answer(self, refusal: Refusal) -> None:
        if self._speaks_tls:
            await self._client.drain(self._proxy.limits.linger, alert(refusal.status))
        else:
            self._client.transport.reset()

    async def _answer_busy(self) -> None:
        await self._answer(BUSY)


class SniTunnel(RawTunnel):
    """A tunnel that must begin with a TLS hello for the host it goes to."""

    __slots__ = ()

    method = "TLS"
    is_for_tls = True

    async def _authorize(self) -> Decision | None:
        refusal = refusal_of(self._verdict)
        if self._host.address is None and refusal is not None:
            return self._about(refusal)
        authorizer = HelloAuthorizer(self._proxy.policy, self._host, self._port, self._verdict)
        try:
            hello = await read_hello(self._client, self._proxy.limits)
        except BadHello as fault:
            self._speaks_tls = fault.is_tls
            return authorizer.malformed(fault) if refusal is None else self._about(refusal)
        if hello is not None:
            self._retry = HelloRetry()
            self._retry.first = hello
            return authorizer.authorize(hello)
        return None if refusal is None else self._about(refusal)


def alert(status: int) -> bytes:
    """The alert for a refusal's status; internal_error if no other alert fits."""
    return fatal_alert(_ALERTS.get(status, _INTERNAL_ERROR))


def fatal_alert(number: int) -> bytes:
    """The TLS record with a fatal alert, in plaintext as before any handshake."""
    return bytes([21, 3, 3, 0, 2, _FATAL, number])
