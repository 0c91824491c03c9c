"""Connections that are passed on as they are, from programs that know of no proxy.

The order is that of connection.py: decided by name, recorded, and only then looked up and dialled.
On 443 the decision waits for the TLS hello, so that there is one decision and it covers the name
that the hello asks for; a name that is denied anyway is refused without waiting.

Which name a hello may ask for is in hello_authorizer.py. On a connection to a literal address it
is that name which is dialled.

Rules of this file: a refusal is what the program can show: an alert where TLS is spoken, a reset
elsewhere, never bytes that could be taken for the server's. The reason, which is recorded, says
which entry would have done.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import HelloRetry
from nono_trio.proxy.access.decision import Refusal, Subject, allowed, denied
from nono_trio.proxy.access.hello_authorizer import MISDIRECTED, HelloAuthorizer, read_hello
from nono_trio.proxy.access.transparent_authorizer import judged
from nono_trio.proxy.connection_handler import (
    BUSY,
    FULL,
    ConnectionHandler,
    ProxyContext,
    UpstreamError,
)

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.transport.client import Client

_FATAL: Final = 2
_INTERNAL_ERROR: Final = 80
# RFC 8446 6.2, the one that a program's own words come closest to: access_denied,
# unrecognized_name, decode_error.
_ALERTS: Final = {403: 49, MISDIRECTED: 112, 400: 50}


class RawTunnel(ConnectionHandler):
    """A tunnel to `host`: the name that the connection's address stands for, or that address."""

    __slots__ = ("_host", "_policy", "_port", "_retry", "_speaks_tls")

    method = "TCP"
    is_for_tls = False

    def __init__(
        self,
        client: Client,
        proxy_context: ProxyContext,
        *,
        full: bool,
        policy: Policy,
        host: Host,
        port: int,
    ) -> None:
        super().__init__(client, proxy_context, full=full)
        self._policy = policy
        self._host = host
        self._port = port
        self._speaks_tls = self.is_for_tls  # until it is known better
        self._retry: HelloRetry | None = None

    async def _serve(self) -> None:
        wanted = (self._host, FULL) if self._full else await self._decide()
        if wanted is None:
            return
        self._client.prove()
        host, refusal = wanted
        subject = Subject("connect", host.name, self._port, self.method)
        if refusal is None:
            subject.note = self._policy.decide(host, self._port).note
            refusal = await self._pass(host, subject)
        if refusal is not None:
            await self._proxy.recorder.record(denied(subject, refusal, self._proxy.now()))
            await self._answer(refusal)

    async def _decide(self) -> tuple[Host, Refusal | None] | None:
        """The host that is wanted, and why it is refused; None if nothing was asked for."""
        return self._host, self._judged(self._host)

    def _judged(self, host: Host) -> Refusal | None:
        return judged(self._policy, host, self._port)

    async def _pass(self, host: Host, subject: Subject) -> Refusal | None:
        """Record and tunnel; the refusal of a host that proved to be out of reach."""
        self._client.deadline = math.inf
        self._proxy.route(subject, host, self._port)
        sequence = await self._proxy.recorder.record(allowed(subject, self._proxy.now()))
        try:
            upstream = await self._upstream(host, self._port)
        except UpstreamError as found:
            return found.refusal
        await self._carry(upstream, subject, sequence, b"", retry=self._retry)
        return None

    async def _answer(self, refusal: Refusal) -> None:
        if self._speaks_tls:
            await self._client.drain(self._proxy.limits.linger, alert(refusal.status))
        else:
            self._client.transport.reset()

    async def _answer_busy(self) -> None:
        await self._answer(BUSY)


class SniTunnel(RawTunnel):
    """A tunnel whose first bytes have to be a TLS hello for the host it goes to."""

    __slots__ = ()

    method = "TLS"
    is_for_tls = True

    async def _decide(self) -> tuple[Host, Refusal | None] | None:
        refusal = self._judged(self._host)
        if self._host.address is None and refusal is not None:
            return self._host, refusal
        judge = HelloAuthorizer(self._policy, self._host, self._port)
        try:
            hello = await read_hello(self._client, self._proxy.limits)
        except BadHello as fault:
            self._speaks_tls = fault.is_tls
            return self._host, refusal or judge.malformed(fault)
        if hello is not None:
            self._retry = HelloRetry()
            self._retry.first = hello
            return judge.asked_for(hello)
        return None if refusal is None else (self._host, refusal)


def alert(status: int) -> bytes:
    """The TLS record with the fatal alert for a refusal's status, in plaintext as before any
    handshake; internal_error where no other one fits."""
    return bytes([21, 3, 3, 0, 2, _FATAL, _ALERTS.get(status, _INTERNAL_ERROR)])
