"""One client connection from its first byte to its last: the order in which a request is judged.

The order, which is what the whole project promises: the request is parsed (400), its token is
compared (407), policy is asked by name (403), the decision is recorded. Only then is a name looked
up, every address of it checked, one of them dialled, a byte answered. What is found out later (a
bad address, a dead upstream) is a second decision and recorded before it is answered, too.

Rules of this file: one refusal is one event; what a client can do to its connection is contained by
connection_handler.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio
from msgspec import UNSET

from nono_trio.core.http.request_head import BadRequest, head_end
from nono_trio.core.net.hello_retry import HelloRetry
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.decision import Refusal, Subject, allowed, denied
from nono_trio.proxy.access.flow import Opened
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
    from nono_trio.proxy.access.authorizer import Authorizer
    from nono_trio.proxy.access.request import PlainRequest, Request


@dataclass(slots=True)
class Inside:
    """A CONNECT was answered, and what it carries is looked at. `opened` is for the flow of one
    whose requests are served one by one: they have the bytes in flows of their own."""

    opened: Opened | None = None
    closed_by: ClosedBy = "client"


class HttpConnection(ConnectionHandler):
    """Serves HTTP: CONNECT and plain requests. `judge` is the proxy's own gate unless given.

    `shared`: others than the caged command may have connected, so what can't be read is nobody's
    attempt in particular until the token was shown.
    """

    __slots__ = (
        "_challenges",
        "_inside",
        "_judge",
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
        judge: Authorizer | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__(client, proxy_context, full=full)
        self._judge = judge or proxy_context.gate
        self._shared = shared
        self._inside: Inside | None = None
        self._served = False
        self._challenges = 0
        self._tunnel_refused = False
        self._spare: Upstream | None = None

    async def _serve(self) -> None:
        while await self._serve_next():
            self._served = True
            await trio.lowlevel.checkpoint()  # pipelined requests may never have to wait
            if self._proxy.closing:
                return

    async def _answer_busy(self) -> None:
        if self._inside is not None:
            self._client.transport.reset()
        else:
            await self._answer(BUSY, keep=False, body=True)

    def _close(self) -> None:
        if self._spare is not None:
            self._spare.transport.close()
        if self._inside is not None and self._inside.opened is not None:
            is_cut = trio.current_effective_deadline() == -math.inf
            closed_by = "shutdown" if is_cut else self._inside.closed_by
            self._proxy.recorder.record_flow(self._inside.opened.flow(0, 0, closed_by))
        super()._close()

    async def _serve_next(self) -> bool:
        """Serve one request; whether another may follow."""
        client = self._client
        raw: bytes | None = None
        try:
            raw = await self._next_head()
            if raw is None:
                return False
            request, refusal, client.unread = self._judge.judge(raw, client.unread)
        except BadRequest as fault:
            return await self._refuse_malformed(raw or client.unread, fault)
        if refusal is None or refusal.status != 407:
            if not client.proven:
                client.prove()
            if self._full:
                refusal = FULL
        if refusal is not None:
            if self._inside is not None:
                return await self._reset(request.subject, refusal)
            return await self._refuse(request, refusal)
        client.deadline = math.inf
        self._proxy.route(request.subject, request.host, request.port)
        sequence = await self._proxy.recorder.record(allowed(request.subject, self._proxy.now()))
        if request.plain is None:
            return await self._tunnel(request, sequence)
        return await self._forward(request, request.plain, sequence)

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
            if self._inside is not None:
                self._inside.closed_by = "idle"
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

    async def _refuse(self, request: Request, refusal: Refusal) -> bool:
        """Record a refusal, then answer it; whether another request may follow."""
        keep = self._may_follow(request, refusal.status)
        event = denied(request.subject, refusal, self._proxy.now())
        if refusal.status == 407:
            await self._proxy.token_failures.record(event)
        else:
            await self._proxy.recorder.record(event)
        more = request.has_open_body or bool(self._client.unread)
        await self._answer(refusal, keep=keep, body=request.head.method != "HEAD", more=more)
        return keep

    def _may_follow(self, request: Request, status: int) -> bool:
        if status == 407:
            self._challenges += 1
            self._tunnel_refused = request.plain is None
            if self._challenges >= MAX_CHALLENGES:
                return False
        elif request.plain is None or status == 503:
            return False
        return request.head.keep_alive and not request.has_open_body

    async def _refuse_malformed(self, raw: bytes, fault: BadRequest) -> bool:
        subject, refusal = self._judge.malformed(raw, fault)
        if self._inside is not None:
            return await self._reset(subject, refusal)
        if self._shared and not self._client.proven:
            refusal.category = CATEGORY
            await self._proxy.token_failures.record(denied(subject, refusal, self._proxy.now()))
        else:
            await self._proxy.recorder.record(denied(subject, refusal, self._proxy.now()))
        await self._answer(refusal, keep=False, body=not raw.startswith(b"HEAD "))
        return False

    async def _answer(self, refusal: Refusal, *, keep: bool, body: bool, more: bool = True) -> None:
        """Send a refusal; if it is the last word while `more` comes in, see that it is read."""
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

    async def _reach(self, request: Request) -> Upstream | None:
        """The upstream of an allowed request; None if it was refused after all."""
        try:
            for_tunnel = request.plain is None and request.spoken != "http"
            return await self._upstream(request.host, request.port, for_tunnel=for_tunnel)
        except UpstreamError as found:
            await self._refuse(request, found.refusal)
            return None

    async def _tunnel(self, request: Request, sequence: int) -> bool:
        """Serve a CONNECT; whether requests may follow, which then are its tunnel's."""
        upstream = await self._reach(request)
        if upstream is None:
            return False
        if request.spoken == "http":
            return await self._open_http(request, sequence, upstream)
        look, retry = None, None
        if request.spoken == "tls":
            self._inside = Inside()
            retry = HelloRetry()
            look = partial(self._look_at_hello, request, upstream, retry)
        await self._carry(
            upstream, request.subject, sequence, error_response.ESTABLISHED, look, retry
        )
        return False

    async def _look_at_hello(
        self, request: Request, upstream: Upstream, retry: HelloRetry
    ) -> ClosedBy | None:
        """Let a TLS tunnel begin (None), or record why not and have it reset."""
        host, port, limits = request.host, request.port, self._proxy.limits
        judge = HelloAuthorizer(self._proxy.policy, host, port)
        found = await check_hello(self._client, upstream, judge, host, limits, retry)
        if not isinstance(found, tuple):
            return found
        host, refusal = found
        presented = request.subject.presented
        await self._reset(Subject("connect", host.name, port, "TLS", presented=presented), refusal)
        return "error"

    async def _open_http(self, request: Request, sequence: int, upstream: Upstream) -> bool:
        """Have the tunnel's requests judged one by one, as on a connection to the server itself;
        whether there is one."""
        host, port, presented = request.host, request.port, request.subject.presented
        opened = Opened(
            request.subject, sequence, upstream.address, self._proxy.now(), upstream.name
        )
        self._spare = upstream
        self._inside = Inside(opened)
        self._judge = TransparentAuthorizer(self._proxy.policy, host, port, presented)
        await self._client.send(error_response.ESTABLISHED)
        ended = await wait_for_client(self._client, upstream, self._proxy.limits)
        if ended is None:
            return True
        if ended != "client" and has_spoken(upstream):
            subject, refusal = self._judge.server_first()
            return await self._reset(subject, refusal)
        self._inside.closed_by = ended
        return False

    async def _reset(self, subject: Subject, refusal: Refusal) -> bool:
        """Record what a tunnel may not carry, then cut it: an answer of ours would be taken for the
        server's. No request may follow."""
        await self._proxy.recorder.record(denied(subject, refusal, self._proxy.now()))
        self._client.transport.reset()
        if self._inside is not None:
            self._inside.closed_by = "error"
        return False

    async def _forward(self, request: Request, plain: PlainRequest, sequence: int) -> bool:
        """Pass one plain request on; whether another may follow."""
        upstream = self._take_spare(request)
        if upstream is not None:
            exchange = await self._exchange(request, plain, sequence, upstream)
            if not (exchange.was_stale and is_repeatable(request.head)):
                return await self._conclude(request, exchange)
        upstream = await self._reach(request)
        if upstream is None:
            return False
        exchange = await self._exchange(request, plain, sequence, upstream)
        return await self._conclude(request, exchange)

    def _take_spare(self, request: Request) -> Upstream | None:
        """The upstream of the last request, or of the CONNECT, if it can serve this one.

        A used one only for what can go out again: the upstream may be closing the connection at
        this moment, and then nobody can tell whether it acted on the request.
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
        self, request: Request, plain: PlainRequest, sequence: int, upstream: Upstream
    ) -> Exchange:
        upstream.used = True
        opened = Opened(
            request.subject, sequence, upstream.address, self._proxy.now(), upstream.name
        )
        exchange = Exchange(self._client, upstream, request.head, plain)
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
                opened.flow(exchange.sent, exchange.received, exchange.closed_by)
            )
        return exchange

    async def _tunnel_on(self, exchange: Exchange, upstream: Upstream) -> None:
        """Carry what follows the handshake of a WebSocket."""
        left_over = exchange.download.left_over
        tunnel = Tunnel(self._client, upstream.transport, self._proxy.buffer, left_over)
        try:
            await tunnel.carry(self._proxy.limits, b"")
        finally:
            exchange.end_as(tunnel)

    async def _conclude(self, request: Request, exchange: Exchange) -> bool:
        """Answer what the upstream did not; whether another request may follow."""
        failure = exchange.failure
        if failure is not None:
            # Its framing went bad after the decision to allow it, or another proxy refused it.
            if failure.status == 400 or failure.category is not UNSET:
                event = denied(request.subject, failure, self._proxy.now())
                await self._proxy.recorder.record(event)
            await self._answer(failure, keep=False, body=request.head.method != "HEAD")
        elif exchange.keeps_client:
            return True
        elif exchange.download.done:
            if self._client.unread or not exchange.upload.complete:
                await self._client.drain(self._proxy.limits.linger)
        elif request.head.version == "1.0":  # there the end of the connection is the end of a body
            self._client.transport.reset()
        return False
