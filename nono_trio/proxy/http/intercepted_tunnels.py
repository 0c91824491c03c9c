"""Transparent connections that may have to be looked into, from programs that know of no proxy.

They begin as the tunnels of raw_tunnel.py do. When the hello has named a host whose requests must
be seen, TLS ends here, and an HttpConnection serves the requests.

Rules of this file: what is neither TLS nor an HTTP/1.1 request is refused with a record, as no byte
of it may pass unseen. That includes a client that waits for the server to speak first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.net.client_hello import HANDSHAKE
from nono_trio.core.policy.reasons import DenialCode
from nono_trio.proxy.access.transparent_authorizer import TransparentAuthorizer, not_seen
from nono_trio.proxy.http.connection import HttpConnection
from nono_trio.proxy.raw_tunnel import SniTunnel
from nono_trio.proxy.transport.client import Expired

if TYPE_CHECKING:
    from nono_trio.core.net.client_hello import ClientHello
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.connection_handler import ProxyContext
    from nono_trio.proxy.transport.client import Client


class TransparentRequests(HttpConnection):
    """The requests of a transparent connection. `decision` is about its `hello`; None if it has
    none, and the requests come in plaintext."""

    __slots__ = ("_decision", "_hello")

    def __init__(
        self,
        client: Client,
        proxy_context: ProxyContext,
        authorizer: TransparentAuthorizer,
        decision: Decision | None,
        hello: ClientHello | None,
    ) -> None:
        super().__init__(client, proxy_context, full=False)
        self.authorizer = authorizer
        self._decision = decision
        self._hello = hello

    async def _serve(self) -> None:
        decision, hello = self._decision, self._hello
        if decision is None or hello is None or await self._end_tls(decision, hello):
            await super()._serve()

    async def _answer_busy(self) -> None:
        if self._decision is None or self._is_under_tls:
            await super()._answer_busy()
        else:
            self._client.transport.reset()


class InterceptingSniTunnel(SniTunnel):
    """A connection to port 443: a tunnel, unless the hello asks for an intercepted host."""

    __slots__ = ()

    async def _pass(self, decision: Decision) -> Decision:
        hello = None if self._retry is None else self._retry.first
        if hello is None or not decision.allowing_verdict.intercepted:
            return await super()._pass(decision)
        await self._serve_requests(decision)
        return decision

    async def _serve_requests(self, decision: Decision | None = None) -> None:
        """Serve the requests of the connection: under TLS if there is a decision about the hello,
        otherwise in plaintext. Their handler records what there is to record."""
        self._has_recorded = True
        about = self._proxy.policy, self._host, self._port, self._verdict
        authorizer = TransparentAuthorizer(*about)
        hello = None if self._retry is None else self._retry.first
        await TransparentRequests(self._client, self._proxy, authorizer, decision, hello).handle()


class InterceptingTunnel(InterceptingSniTunnel):
    """A connection to an intercepted host on another port: TLS, or HTTP/1.1 in plaintext."""

    __slots__ = ("_waited",)

    async def _serve(self) -> None:
        self._waited = False
        if not self._full and self._verdict.allowed and await self._speaks_http():
            self._full = not self._client.prove()
            if not self._full:
                await self._serve_requests()
                return
        await super()._serve()

    async def _authorize(self) -> Decision | None:
        if self._client.unread or not self._waited:
            return await super()._authorize()
        self._speaks_tls = False
        code = DenialCode.INTERCEPTED_SILENT
        return self._about(not_seen(self._proxy.policy, code, self._host))

    async def _speaks_http(self) -> bool:
        """Wait for the first byte; return whether it may begin a request. It stays unread."""
        client = self._client
        client.expire_in(self._proxy.limits.head)
        try:
            client.unread = await client.receive()
        except Expired:
            if client.dropped:
                raise
            self._waited = True
        return bool(client.unread) and client.unread[0] != HANDSHAKE
