"""One client connection, from its first byte to its last: the life of each request, step by step.

1. authorize: parse the request (400), compare its token (407), ask policy by name (403). Path rules
   and approvals belong here, and the search for stand-ins (`_guard`).
2. record: commit the decision to the log. Everything below happens after it.
3. rewrite: make the request that the upstream gets, except for a CONNECT. Stand-ins of credentials
   are swapped here, and the secrets asked for.
4. connect: look the name up, check every address of it, dial one of them.
5. relay: answer, and move bytes both ways.
6. log: note what moved (flows.ndjson).

A bad address or a dead upstream is found after the record. It is a second decision, and is recorded
before it is answered too. One refusal is one event.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.authorizer import ConnectRequest, HttpRequest
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.access.token_failures import CATEGORY
from nono_trio.proxy.connection_handler import BUSY, FULL, Upstream, UpstreamError
from nono_trio.proxy.credentials.interfaces import MustNotGoOn
from nono_trio.proxy.first_bytes import rest_of_head
from nono_trio.proxy.http import error_response
from nono_trio.proxy.http.exchange import Exchange, is_repeatable, may_carry
from nono_trio.proxy.http.rewrite import rewrite
from nono_trio.proxy.http.tunnels import TunnelHandler
from nono_trio.proxy.limits import MAX_CHALLENGES
from nono_trio.proxy.transport.client import Expired
from nono_trio.steps import become_task, turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from nono_trio.proxy.access.authorizer import Request
    from nono_trio.proxy.access.decision import Decision, Recorded
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.credentials.request_guard import RequestGuard
    from nono_trio.proxy.http.rewrite import OutgoingRequest

UNPROVEN: Final = (407, 401)  # statuses for a client that has shown no token, or no stand-in
OWN: Final = Refusal(403, format_reason(DenialCode.IS_PROXY), category="host_denied")


class HttpConnection(TunnelHandler):
    """Serves HTTP: CONNECT and plain requests."""

    _is_shared = False
    _served = False
    _is_pipelined = False
    """The next request may have come before the answer to the last one has ended."""
    _challenges = 0
    _tunnel_refused = False

    async def _serve(self) -> None:
        client = self._client
        while True:
            data = client.unread or client.transport.try_receive()
            if data is None:  # rare: most connections come with their first bytes
                data = await self._first_bytes()
            if not data or (self._tunnel_refused and not data[:1].isalpha()):
                return  # bytes after a refused CONNECT may be meant for the tunnel
            self._is_silent = False
            if not await self._serve_request(data):
                return
            self._served = True
            self._is_pipelined = bool(client.unread) or client.transport.readable
            if self._is_pipelined:
                await turn()  # pipelined requests may never have to wait
            if self._proxy.closing:
                return

    async def _serve_request(self, data: bytes) -> bool:
        """Serve the request that begins with `data`; returns True if another may follow."""
        client, proxy = self._client, self._proxy
        raw = b""
        try:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:  # not the whole head in one read; otherwise parse_head is as strict
                data, end = await rest_of_head(client, data, proxy.limits)
            raw, client.unread = data[:end], data[end:]
            request, decision = self._authorize(raw)
        except BadRequest as fault:
            return await self._refuse_malformed(raw or client.unread, fault)
        others: Sequence[Decision] = ()
        has_messages = decision.endpoint is not None and decision.messages is not None
        if has_messages and type(request) is HttpRequest:
            await become_task()
            decision, *others = await self._judge_messages(request, decision)
        guard = None
        if proxy.credentials is not None:
            guard, decision = await self._guard(request, decision, proxy.credentials)
        if decision.refusal is not None:
            if self._is_established and decision.endpoint is None:
                return await self._reset(decision)
            return await self._refuse(request, decision, decision.refusal)
        client.deadline = math.inf
        recorded = await self._record(decision)
        for other in others:  # of a batch: each message is a record before one is sent
            await self._record(other)
        try:
            if type(request) is HttpRequest:
                return await self._forward(request, recorded, guard)
            if proxy.interception is not None and self._may_be_intercepted(request, decision):
                return await self._look_into(request, recorded)
            spoken = decision.spoken
            upstream = await self._reach(request, recorded, for_tunnel=spoken != "http")
            if self._spare is not None:
                self._forget_spare()
            if spoken == "http":
                return await self._open_http(request, recorded, upstream)
            if spoken == "tls":
                self._relay_tls(request, recorded, upstream)
            else:
                self._end_with_tunnel(upstream, recorded, error_response.ESTABLISHED)
        except (UpstreamError, MustNotGoOn) as found:
            return await self._refuse(request, decision.refused(found.refusal), found.refusal)
        return False

    async def _guard(
        self, request: Request, decision: Decision, credentials: Credentials
    ) -> tuple[RequestGuard | None, Decision]:
        """Search for stand-ins, as `judge_request`."""
        from nono_trio.proxy.http.guarded_request import judge_request  # late, as few have any

        await become_task()
        is_http = type(request) is HttpRequest
        is_secure = self._is_under_tls or (is_http and request.over_tls)
        scheme = "https" if is_secure else "http"
        seconds = self._proxy.limits.head
        return await judge_request(
            self._client, request, decision, credentials, scheme=scheme, seconds=seconds
        )

    async def _forward(
        self, request: HttpRequest, recorded: Recorded, guard: RequestGuard | None
    ) -> bool:
        """Send an allowed request on; returns True if another may follow. Raises UpstreamError, and
        MustNotGoOn before a byte of it is sent."""
        outgoing = await self._outgoing(request, recorded, guard)
        spare = self._take_spare(request)
        upstream = spare or await self._reach(request, recorded, for_tunnel=False)
        if guard is not None and guard.sends_secrets:
            self._check_address(guard, request, upstream)
        exchange = await self._exchange(request, recorded, upstream, outgoing, guard)
        # A spare upstream may have closed between two requests: then the request goes out once
        # more, on a new connection.
        if spare is not None and exchange.was_stale and is_repeatable(request.head):
            outgoing = await self._outgoing(request, recorded, guard)
            again = await self._reach(request, recorded, for_tunnel=False)
            if guard is not None and guard.sends_secrets:
                self._check_address(guard, request, again)
            exchange = await self._exchange(request, recorded, again, outgoing, guard)
        return await self._conclude(request, recorded.decision, exchange)

    async def _outgoing(
        self, request: HttpRequest, recorded: Recorded, guard: RequestGuard | None
    ) -> OutgoingRequest:
        """The request as the upstream gets it, with secrets as they are now. Raises MustNotGoOn."""
        decision = recorded.decision
        is_direct = self._is_under_tls or request.over_tls  # an upstream proxy sees a tunnel
        chain = None if is_direct else self._proxy.chain_of(decision)
        if guard is None:
            return rewrite(request, chain, is_judged=decision.is_judged)
        from nono_trio.proxy.http.guarded_request import rewrite_guarded  # late, as above

        return await rewrite_guarded(request, decision, chain, guard)

    def _check_address(self, guard: RequestGuard, request: HttpRequest, upstream: Upstream) -> None:
        """Raise MustNotGoOn, and close the upstream, if a secret must not go there."""
        try:
            is_proxied = upstream.chain is not None
            guard.check_address(upstream.address, request.host, is_proxied=is_proxied)
        except MustNotGoOn:
            upstream.transport.close()
            raise

    def _authorize(self, raw: bytes) -> tuple[Request, Decision]:
        """Decide about the request whose head is `raw`. Raises BadRequest."""
        client, proxy = self._client, self._proxy
        authorizer = self.authorizer or proxy.authorizer
        request, decision, client.unread = authorizer.authorize(raw, client.unread)
        refusal = decision.refusal
        if refusal is not None and refusal.status in UNPROVEN:
            return request, decision
        if not client.proven:
            self._full = not client.prove()
        if proxy.token_failures.challenged:
            proxy.token_failures.answered(decision)
        if self._full and refusal is None:  # what policy refuses is never a lack of room
            return request, decision.refused(FULL)
        host = request.host
        # `is_own` asks the system for its addresses, so it has no place in an authorizer.
        if (
            host.address
            and authorizer is proxy.authorizer
            and proxy.resolver.is_own(host.name, request.port)
        ):
            return request, decision.refused(OWN)
        if refusal is None and proxy.chain is not None:
            decision = proxy.route(decision)
        return request, decision

    async def _judge_messages(
        self, request: HttpRequest, decision: Decision
    ) -> tuple[Decision, ...]:
        """Read the body of a request and decide about each message in it; a decision that refuses
        is alone. Raises Expired for a client whose place was given away."""
        from nono_trio.proxy.http.message_body import read_messages  # late: few hosts have rules

        return await read_messages(self._client, request, decision, self._proxy.limits.head)

    def _unasked(self) -> Decision | None:
        return (self.authorizer or self._proxy.authorizer).unasked()

    async def _answer_busy(self) -> None:
        if self._is_established:
            self._client.transport.reset()
        else:
            await self._answer(BUSY, keep=False, body=True)

    async def _first_bytes(self) -> bytes:
        """Wait for the first bytes of a request, b"" at the end. Raises Expired for a client that
        sent nothing."""
        client, limits = self._client, self._proxy.limits
        client.idle = True
        is_silent = False
        try:
            await client.pause(limits.keep_alive if self._served else limits.head)
            data = await client.receive()
        except Expired:
            is_silent = True
        if is_silent:
            self._closed_by = "idle"
            await self._record_silence()
            raise Expired
        client.idle = False
        return data

    async def _refuse(self, request: Request, decision: Decision, refusal: Refusal) -> bool:
        """Record a refusal, then answer it; returns True if another request may follow."""
        status = refusal.status
        if status in UNPROVEN:
            self._challenges += 1
            self._tunnel_refused = type(request) is ConnectRequest
            keep = self._challenges < MAX_CHALLENGES
            if not self._is_shared:
                self._proxy.token_failures.challenge(decision)
            await self._proxy.token_failures.record(decision, self._client.origin)
        else:
            keep = type(request) is HttpRequest and status != 503
            await self._commit(decision)
        head, comes_more = request.head, request.has_open_body
        keep = keep and head.keep_alive and not comes_more
        if keep or comes_more or self._client.unread:
            await self._answer(refusal, keep=keep, body=head.method != "HEAD")
        else:  # all was read, so that the close does not destroy the answer
            text = _answer_text(refusal, close=True, body=head.method != "HEAD")
            self._client.transport.send_last(text)
        return keep

    async def _refuse_malformed(self, raw: bytes, fault: BadRequest) -> bool:
        decision = (self.authorizer or self._proxy.authorizer).malformed(raw, fault)
        if self._proxy.credentials is not None:
            decision = self._proxy.credentials.without_stand_ins(decision)
        refusal = decision.refusal
        if refusal is None:
            raise AssertionError("a malformed request is refused")
        if self._is_established:
            return await self._reset(decision)
        if self._is_shared and not self._client.proven:
            refusal = replace(refusal, category=CATEGORY)
            await self._proxy.token_failures.record(decision.refused(refusal), self._client.origin)
        else:
            await self._record(decision)
        await self._answer(refusal, keep=False, body=not raw.startswith(b"HEAD "))
        return False

    async def _answer(self, refusal: Refusal, *, keep: bool, body: bool) -> None:
        """Send a refusal. If it is the last answer, read what still comes: closing with unread
        bytes could destroy the answer."""
        client, seconds = self._client, self._proxy.limits.linger
        text = _answer_text(refusal, close=not keep, body=body)
        if keep:
            client.expire_in(seconds)
            await client.send(text)
        else:
            await client.drain(seconds, text)

    def _reach(
        self, request: Request, recorded: Recorded, *, for_tunnel: bool
    ) -> Awaitable[Upstream]:
        """Connect to the upstream of an allowed request. Raises UpstreamError."""
        if self._unreached is not None:
            unreached, self._unreached = self._unreached, None
            raise unreached
        if self._is_under_tls or request.over_tls:
            return self._connect_tls(recorded)
        return self._connect(recorded, for_tunnel=for_tunnel)

    def _take_spare(self, request: HttpRequest) -> Upstream | None:
        """The upstream of the last request, or of the CONNECT, if it can serve this one."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        same = spare.destination == (request.host, request.port)
        # A request for a route must not go out in clear on the connection of another one.
        same = same and spare.over_tls == (self._is_under_tls or request.over_tls)
        if same and may_carry(spare, request.head, is_pipelined=self._is_pipelined):
            return spare
        spare.transport.close()
        return None

    async def _exchange(
        self,
        request: HttpRequest,
        recorded: Recorded,
        upstream: Upstream,
        outgoing: OutgoingRequest,
        guard: RequestGuard | None,
    ) -> Exchange:
        """Relay one request and its response, then log the flow."""
        upstream.used = True
        start = self._start_flow(upstream, recorded)
        searches = None
        if guard is not None and guard.looks_on:
            from nono_trio.proxy.http.guarded_request import searches_of  # late, as above

            is_websocket = outgoing.websocket_key is not None
            searches = searches_of(
                guard, request, recorded, self._record, is_websocket=is_websocket
            )
        takes = None if guard is None else guard.tokens
        exchange = Exchange(self._client, upstream, request, outgoing, searches, takes=takes)
        try:
            await exchange.run(self._proxy.limits, self._proxy.buffer)
        finally:
            if guard is not None:
                guard.note_status(exchange.response_stream.status)
            if exchange.keeps_upstream:
                self._spare = upstream
            else:
                upstream.transport.close()
            self._proxy.recorder.record_flow(exchange.flow(start))
        return exchange

    async def _conclude(self, request: HttpRequest, decision: Decision, exchange: Exchange) -> bool:
        """Answer if the upstream did not; returns True if another request may follow."""
        failure = exchange.failure
        if exchange.found is not None:
            await self._record(decision.refused(exchange.found))
            if exchange.response_stream.answered:
                self._client.transport.reset()
            else:
                await self._answer(exchange.found, keep=False, body=request.head.method != "HEAD")
        elif failure is not None:
            # After the allowing record its framing went bad, or the upstream did not answer it.
            await self._record(decision.refused(failure))
            await self._answer(failure, keep=False, body=request.head.method != "HEAD")
        elif exchange.keeps_client:
            return True
        elif exchange.response_stream.done:
            if self._client.unread or not exchange.request_stream.complete:
                await self._client.drain(self._proxy.limits.linger)
            else:
                await self._client.finish(self._proxy.limits.idle)
        elif request.head.version == "1.0":  # there the end of the connection is the end of a body
            self._client.transport.reset()
        return False


def _answer_text(refusal: Refusal, *, close: bool, body: bool) -> bytes:
    """The answer to a refused request."""
    reason, hint = refusal.reason, refusal.hint
    if refusal.message_id is not None and body:
        return error_response.message_refusal(refusal.message_id, reason, hint, close=close)
    return error_response.refusal(refusal.status, reason, hint, close=close, body=body)


class SharedHttpConnection(HttpConnection):
    """Serves HTTP where other programs than the caged command may have connected: a malformed
    request is not attributed to the command until the client has shown the token."""

    _is_shared = True
