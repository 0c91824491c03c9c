"""One client connection, from its first byte to its last: the life of each request, step by step.

1. authorize: parse the request (400), compare its token (407), ask policy by name (403). Path rules
   and approvals belong here.
2. record: commit the decision to the log. Everything below happens after it.
3. connect: look a name up, check every address of it, dial one of them.
4. relay: answer, and move bytes both ways.
5. log: note what moved (flows.ndjson).

What is found out after the record (a bad address, a dead upstream) is a second decision, and is
recorded before it is answered too. One refusal is one event. connection_handler.py contains what a
client can do to its connection.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET
from msgspec.structs import replace

from nono_trio.core.http.request_head import BadRequest, head_end
from nono_trio.core.net.hello_retry import HelloRetry
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.authorizer import ConnectRequest, HttpRequest
from nono_trio.proxy.access.decision import FlowStart, Refusal
from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
from nono_trio.proxy.access.token_failures import CATEGORY
from nono_trio.proxy.access.transparent_authorizer import TransparentAuthorizer
from nono_trio.proxy.connection_handler import (
    BUSY,
    FULL,
    ConnectionHandler,
    ProxyContext,
    Upstream,
    UpstreamError,
)
from nono_trio.proxy.http import error_response
from nono_trio.proxy.http.exchange import Exchange, is_repeatable
from nono_trio.proxy.http.first_bytes import check_hello, has_spoken, wait_for_client
from nono_trio.proxy.limits import MAX_CHALLENGES
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.proxy.transport.tunnel import Tunnel

if TYPE_CHECKING:
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.access.authorizer import Authorizer, Request
    from nono_trio.proxy.access.decision import Decision

OWN: Final = Refusal(403, format_reason(DenialCode.IS_PROXY), category="host_denied")


class HttpConnection(ConnectionHandler):
    """Serves HTTP: CONNECT and plain requests. `authorizer` is the proxy's own unless given.

    `shared`: other programs than the caged command may have connected, so a malformed request is
    not attributed to the command until the client has shown the token.
    """

    __slots__ = (
        "_authorizer",
        "_challenges",
        "_closed_by",
        "_flow",
        "_is_established",
        "_served",
        "_shared",
        "_spare",
        "_tunnel_refused",
    )

    def __init__(
        self,
        client: Client,
        proxy_context: ProxyContext,
        *,
        full: bool,
        authorizer: Authorizer | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__(client, proxy_context, full=full)
        self._authorizer = authorizer or proxy_context.authorizer
        self._shared = shared
        self._is_established = False
        """A CONNECT was answered with 200, and the first bytes of its tunnel are inspected."""
        self._flow: FlowStart | None = None
        """Of a CONNECT whose tunnel carries HTTP. Each request in it has a flow of its own."""
        self._closed_by: ClosedBy = "client"
        self._served = False
        self._challenges = 0
        self._tunnel_refused = False
        self._spare: Upstream | None = None

    async def _serve(self) -> None:
        while await self._serve_request():
            self._served = True
            await trio.lowlevel.checkpoint()  # pipelined requests may never have to wait
            if self._proxy.closing:
                return

    async def _serve_request(self) -> bool:
        """Serve one request; returns True if another may follow."""
        raw: bytes | None = None
        try:
            raw = await self._next_head()
            if raw is None:
                return False
            request, decision = self._authorize(raw)
        except BadRequest as fault:
            return await self._refuse_malformed(raw or self._client.unread, fault)
        if decision.refusal is not None:
            if self._is_established:
                return await self._reset(decision)
            return await self._refuse(request, decision, decision.refusal)
        self._client.deadline = math.inf
        sequence = await self._record(decision)
        if isinstance(request, ConnectRequest):
            return await self._tunnel(request, decision, sequence)
        return await self._forward(request, decision, sequence)

    def _authorize(self, raw: bytes) -> tuple[Request, Decision]:
        """Decide about the request whose head is `raw`. Raises BadRequest."""
        client, proxy = self._client, self._proxy
        request, decision, client.unread = self._authorizer.authorize(raw, client.unread)
        refusal = decision.refusal
        if refusal is not None and refusal.status == 407:
            return request, decision
        if not client.proven:
            client.prove()
        if self._full:
            return request, decision.refused(FULL)
        if self._is_to_proxy(request):
            return request, decision.refused(OWN)
        return request, decision if refusal is not None else proxy.route(decision)

    def _is_to_proxy(self, request: Request) -> bool:
        """True if the request would come back to the proxy. This asks the system for its own
        addresses, so it has no place in an authorizer."""
        host, proxy = request.host, self._proxy
        if host.address is None or self._authorizer is not proxy.authorizer:
            return False
        return proxy.resolver.is_own(host.name, request.port)

    async def _answer_busy(self) -> None:
        if self._is_established:
            self._client.transport.reset()
        else:
            await self._answer(BUSY, keep=False, body=True)

    def _close(self) -> None:
        if self._spare is not None:
            self._spare.transport.close()
        if self._flow is not None:
            is_cut = trio.current_effective_deadline() == -math.inf
            closed_by = "shutdown" if is_cut else self._closed_by
            self._proxy.recorder.record_flow(self._flow.end(0, 0, closed_by))
        super()._close()

    async def _next_head(self) -> bytes | None:
        """The bytes of the next head; None when no more requests come. Raises BadRequest, Expired
        for a client that sent nothing."""
        client = self._client
        data = client.unread or client.transport.try_receive()
        if data is None:  # only then: most connections come with their first bytes
            data = await self._first_bytes()
        if not data or (self._tunnel_refused and not data[:1].isalpha()):
            return None  # what follows a refused CONNECT may be meant for the tunnel
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:  # else: the usual case, a whole head in one read; parse_head is as strict
            data, end = await self._rest_of_head(data)
        client.unread = data[end:]
        return data[:end]

    async def _first_bytes(self) -> bytes:
        client, limits = self._client, self._proxy.limits
        client.expire_in(limits.keep_alive if self._served else limits.head)
        client.idle = True
        try:
            data = await client.receive()
        except Expired:
            self._closed_by = "idle"
            raise
        client.idle = False
        return data

    async def _rest_of_head(self, data: bytes) -> tuple[bytes, int]:
        """A started head up to its end at least, and where that is. Raises BadRequest."""
        client = self._client
        client.expire_in(self._proxy.limits.head)
        seen = 0
        while (end := head_end(data, seen)) < 0:
            seen = len(data)
            client.unread = data
            try:
                more = await client.receive()
            except Expired:
                if client.dropped:
                    raise
                seconds = self._proxy.limits.head
                reason = format_reason(DenialCode.HEAD_TIMEOUT, seconds=seconds)
                raise BadRequest(408, reason) from None
            if not more:
                raise BadRequest(400, format_reason(DenialCode.HEAD_CUT))
            data += more
        return data, end

    async def _refuse(self, request: Request, decision: Decision, refusal: Refusal) -> bool:
        """Record a refusal, then answer it; returns True if another request may follow."""
        keep = self._may_follow(request, refusal.status)
        if refusal.status == 407:
            await self._proxy.token_failures.record(decision)
        else:
            await self._record(decision)
        more = request.has_open_body or bool(self._client.unread)
        await self._answer(refusal, keep=keep, body=request.head.method != "HEAD", more=more)
        return keep

    def _may_follow(self, request: Request, status: int) -> bool:
        is_connect = isinstance(request, ConnectRequest)
        if status == 407:
            self._challenges += 1
            self._tunnel_refused = is_connect
            if self._challenges >= MAX_CHALLENGES:
                return False
        elif is_connect or status == 503:
            return False
        return request.head.keep_alive and not request.has_open_body

    async def _refuse_malformed(self, raw: bytes, fault: BadRequest) -> bool:
        decision = self._authorizer.malformed(raw, fault)
        refusal = decision.refusal
        if refusal is None:
            raise AssertionError("a malformed request is refused")
        if self._is_established:
            return await self._reset(decision)
        if self._shared and not self._client.proven:
            refusal = replace(refusal, category=CATEGORY)
            await self._proxy.token_failures.record(decision.refused(refusal))
        else:
            await self._record(decision)
        await self._answer(refusal, keep=False, body=not raw.startswith(b"HEAD "))
        return False

    async def _reset(self, decision: Decision) -> bool:
        """Record what a tunnel may not carry, then cut it: the client would take an answer of ours
        for the server's. No request may follow."""
        await self._record(decision)
        self._client.transport.reset()
        self._closed_by = "error"
        return False

    async def _answer(self, refusal: Refusal, *, keep: bool, body: bool, more: bool = True) -> None:
        """Send a refusal. If it is the last answer and `more` comes in, read that first: closing
        with unread bytes could destroy the answer."""
        client, seconds = self._client, self._proxy.limits.linger
        text = error_response.refusal(
            refusal.status, refusal.reason, refusal.hint, close=not keep, body=body
        )
        if keep:
            client.expire_in(seconds)
            await client.send(text)
        elif more:
            await client.drain(seconds, text)
        else:
            client.transport.send_last(text)

    async def _reach(
        self, request: Request, decision: Decision, *, for_tunnel: bool
    ) -> Upstream | None:
        """Connect to the upstream of an allowed request; None if it was refused after all."""
        try:
            return await self._connect(decision, for_tunnel=for_tunnel)
        except UpstreamError as found:
            refusal = found.refusal
            await self._refuse(request, decision.refused(refusal), refusal)
            return None

    async def _tunnel(self, request: ConnectRequest, decision: Decision, sequence: int) -> bool:
        """Serve a CONNECT; returns True if requests may follow, which then are its tunnel's."""
        spoken = decision.allowing_verdict.inspection.spoken(request.port)
        upstream = await self._reach(request, decision, for_tunnel=spoken != "http")
        if upstream is None:
            return False
        if spoken == "http":
            return await self._open_http(request, decision, sequence, upstream)
        look, retry = None, None
        if spoken == "tls":
            self._is_established = True
            retry = HelloRetry()
            look = partial(self._look_at_hello, request, decision, upstream, retry)
        await self._run_tunnel(
            upstream, decision, sequence, error_response.ESTABLISHED, look, retry
        )
        return False

    async def _look_at_hello(
        self, request: ConnectRequest, decision: Decision, upstream: Upstream, retry: HelloRetry
    ) -> ClosedBy | None:
        """Let a TLS tunnel begin (None), or record why not and reset it."""
        authorizer = HelloAuthorizer(
            self._proxy.policy,
            request.host,
            request.port,
            decision.allowing_verdict,
            decision.presented,
        )
        found = await check_hello(self._client, upstream, authorizer, self._proxy.limits, retry)
        if isinstance(found, str):
            return found
        if found.refusal is None:
            return None
        await self._reset(found)
        return "error"

    async def _open_http(
        self, request: ConnectRequest, decision: Decision, sequence: int, upstream: Upstream
    ) -> bool:
        """Have the tunnel's requests authorized one by one, as on a connection to the server
        itself; returns True if a request has begun."""
        self._flow = self._start_flow(upstream, decision, sequence)
        self._spare = upstream
        self._is_established = True
        self._authorizer = authorizer = TransparentAuthorizer(
            self._proxy.policy,
            request.host,
            request.port,
            decision.allowing_verdict,
            decision.presented,
        )
        await self._client.send(error_response.ESTABLISHED)
        ended = await wait_for_client(self._client, upstream, self._proxy.limits)
        if ended is None:
            return True
        if ended != "client" and has_spoken(upstream):
            return await self._reset(authorizer.server_first())
        self._closed_by = ended
        return False

    async def _forward(self, request: HttpRequest, decision: Decision, sequence: int) -> bool:
        """Forward one plain request; returns True if another may follow."""
        upstream = self._take_spare(request)
        if upstream is not None:
            exchange = await self._exchange(request, decision, sequence, upstream)
            if not (exchange.was_stale and is_repeatable(request.head)):
                return await self._conclude(request, decision, exchange)
        upstream = await self._reach(request, decision, for_tunnel=False)
        if upstream is None:
            return False
        exchange = await self._exchange(request, decision, sequence, upstream)
        return await self._conclude(request, decision, exchange)

    def _take_spare(self, request: HttpRequest) -> Upstream | None:
        """The upstream of the last request, or of the CONNECT, if it can serve this one.

        A used one serves only a request that can go out again: the upstream may be closing the
        connection at this moment, and then nobody can know whether it acted on the request.
        """
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        same = spare.key == (request.host.name, request.port)
        if same and (is_repeatable(request.head) or not spare.used) and spare.transport.is_silent():
            return spare
        spare.transport.close()
        return None

    async def _exchange(
        self, request: HttpRequest, decision: Decision, sequence: int, upstream: Upstream
    ) -> Exchange:
        upstream.used = True
        start = self._start_flow(upstream, decision, sequence)
        exchange = Exchange(self._client, upstream, request)
        try:
            await exchange.run(self._proxy.limits)
            if exchange.download.switched:
                await self._tunnel_on(exchange, upstream)
        finally:
            if exchange.keeps_upstream:
                self._spare = upstream
            else:
                upstream.transport.close()
            self._proxy.recorder.record_flow(
                start.end(exchange.sent, exchange.received, exchange.closed_by)
            )
        return exchange

    async def _tunnel_on(self, exchange: Exchange, upstream: Upstream) -> None:
        """Relay what follows the handshake of a WebSocket."""
        left_over = exchange.download.left_over
        tunnel = Tunnel(self._client, upstream.transport, self._proxy.buffer, left_over)
        try:
            await tunnel.carry(self._proxy.limits, b"")
        finally:
            exchange.end_as(tunnel)

    async def _conclude(self, request: HttpRequest, decision: Decision, exchange: Exchange) -> bool:
        """Answer what the upstream did not; returns True if another request may follow."""
        failure = exchange.failure
        if failure is not None:
            # Its framing went bad after the decision to allow it, or another proxy refused it.
            if failure.status == 400 or failure.category is not UNSET:
                await self._record(decision.refused(failure))
            await self._answer(failure, keep=False, body=request.head.method != "HEAD")
        elif exchange.keeps_client:
            return True
        elif exchange.download.done:
            if self._client.unread or not exchange.upload.complete:
                await self._client.drain(self._proxy.limits.linger)
        elif request.head.version == "1.0":  # there the end of the connection is the end of a body
            self._client.transport.reset()
        return False
