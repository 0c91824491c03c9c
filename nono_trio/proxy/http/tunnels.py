"""The tunnels of CONNECT, and their interception: after the 200 a client may send any bytes,
requests in plaintext, or requests under TLS.

If the requests of a host must be seen, its tunnel is intercepted: TLS ends here, with a certificate
of the session's authority, and each request is decided, recorded and forwarded over verified TLS.

Rules of this file:
- The hello is authorized, and the interception is recorded, before a byte of a handshake is sent.
- A handshake that fails is a record and the end of the connection, never a tunnel.
- No server is dialled for an intercepted connection before one of its requests is allowed, unless
  the client offers HTTP/2 and it is unknown whether the server speaks it: HTTP/2 is offered to a
  client only if its server speaks it too. That connection then serves the first request.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.net.client_hello import HANDSHAKE, BadHello
from nono_trio.core.net.hello_retry import HelloRetry
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.decision import FlowStart, Recorded, Refusal
from nono_trio.proxy.access.hello_authorizer import HelloAuthorizer
from nono_trio.proxy.access.transparent_authorizer import (
    InterceptedAuthorizer,
    TransparentAuthorizer,
)
from nono_trio.proxy.connection_handler import (
    ConnectionHandler,
    Upstream,
    UpstreamError,
)
from nono_trio.proxy.first_bytes import has_spoken, read_hello, wait_for_client
from nono_trio.proxy.http import error_response
from nono_trio.proxy.intercept.interfaces import (
    BOTH,
    HTTP1,
    HTTP1_ONLY,
    HTTP2,
    HandshakeFailed,
)
from nono_trio.proxy.raw_tunnel import fatal_alert
from nono_trio.proxy.transport.client import Expired
from nono_trio.steps import become_task, is_cancelled

if TYPE_CHECKING:
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.core.net.client_hello import ClientHello
    from nono_trio.core.net.host import Host
    from nono_trio.proxy.access.authorizer import Authorizer, ConnectRequest
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.intercept.interfaces import Intercepts

NO_PROTOCOL: Final = 120  # RFC 7301 3.2: the alert no_application_protocol


class TunnelHandler(ConnectionHandler):
    """The tunnels of a connection that begins with HTTP."""

    authorizer: Authorizer | None = None
    """Decides about the requests, instead of the proxy's own."""
    _is_established = False
    """A CONNECT was answered with 200, and the first bytes of its tunnel are inspected."""
    _is_under_tls = False
    """The client's TLS ends here, so its requests go out over TLS too."""
    _is_silent = True
    """Nothing has come since TLS was ended here."""
    _flow: FlowStart | None = None
    """Of a connection that carries requests. Each of them has a flow of its own."""
    _closed_by: ClosedBy = "client"
    _spare: Upstream | None = None
    _unreached: UpstreamError | None = None
    """Why the server was not reached before a request was sent; the first one gets it."""

    def _close(self) -> None:
        if self._spare is not None:
            self._spare.transport.close()
        if self._flow is not None:
            closed_by = "shutdown" if is_cancelled() else self._closed_by
            self._log(self._flow, 0, 0, closed_by)
        self._client.transport.close()

    async def _reset(self, decision: Decision) -> bool:
        """Record what a tunnel may not carry, then cut it: the client would take an answer of ours
        for the server's. No request may follow."""
        await self._record(decision)
        self._client.transport.reset()
        self._closed_by = "error"
        return False

    # -- tunnels ----------------------------------------------------------------------------------

    def _relay_tls(self, request: ConnectRequest, recorded: Recorded, upstream: Upstream) -> None:
        """Have a CONNECT answered, and its tunnel relayed once it has begun with the hello that it
        must begin with."""
        self._is_established = True
        decision = recorded.decision
        about = request.host, request.port, decision.allowing_verdict, decision.presented
        authorizer = HelloAuthorizer(self._proxy.policy, *about)
        retry = HelloRetry()
        look = partial(self._look_at_hello, authorizer, upstream, retry)
        self._end_with_tunnel(upstream, recorded, error_response.ESTABLISHED, look, retry)

    async def _look_at_hello(
        self, authorizer: HelloAuthorizer, upstream: Upstream, retry: HelloRetry
    ) -> ClosedBy | None:
        """Let a TLS tunnel begin (None), or record why not and reset it."""
        found = await self._authorize_hello(authorizer, upstream, retry)
        if isinstance(found, str):
            return found
        if found.refusal is None:
            return None
        await self._reset(found)
        return "error"

    async def _authorize_hello(
        self, authorizer: HelloAuthorizer, upstream: Upstream, retry: HelloRetry
    ) -> Decision | ClosedBy:
        """The decision about the TLS hello, whose bytes stay unread, or the side that ended the
        connection before it came. A client sends its hello only after the 200."""
        ended = await wait_for_client(self._client, upstream, self._proxy.limits)
        if ended is not None:
            is_server_first = ended != "client" and has_spoken(upstream)
            return authorizer.server_first() if is_server_first else ended
        try:
            hello = await read_hello(self._client, self._proxy.limits)
        except BadHello as fault:
            return authorizer.malformed(fault)
        if hello is None:
            return "client"
        retry.first = hello
        return self._proxy.judge_name(authorizer.authorize(hello))

    async def _open_http(
        self, request: ConnectRequest, recorded: Recorded, upstream: Upstream
    ) -> bool:
        """Answer a CONNECT whose tunnel must carry HTTP. Its requests are authorized one by one, as
        on a connection to the server itself; returns True if one has begun."""
        self._is_established = True
        decision = recorded.decision
        about = request.host, request.port, decision.allowing_verdict, decision.presented
        self._flow = self._start_flow(upstream, recorded)
        self._spare = upstream
        self.authorizer = authorizer = TransparentAuthorizer(self._proxy.policy, *about)
        await self._client.send(error_response.ESTABLISHED)
        ended = await wait_for_client(self._client, upstream, self._proxy.limits)
        if ended is None:
            return True
        if ended != "client" and has_spoken(upstream):
            return await self._reset(authorizer.server_first())
        self._closed_by = ended
        return False

    # -- interception -----------------------------------------------------------------------------

    def _may_be_intercepted(self, request: ConnectRequest, decision: Decision) -> bool:
        """Return whether requests in the tunnel may have to be seen. On a connection to a literal
        address the hello decides."""
        spoken = decision.spoken
        if decision.allowing_verdict.intercepted:
            return spoken != "http"
        return spoken == "tls" and request.host.address is not None

    async def _look_into(self, request: ConnectRequest, recorded: Recorded) -> bool:
        """Answer the CONNECT to a host whose requests must be seen, before anything is dialled;
        returns True if requests follow."""
        self._forget_spare()
        self._is_established = True
        self._flow = FlowStart(recorded, None, self._proxy.now())
        await self._client.send(error_response.ESTABLISHED)
        decision = recorded.decision
        about = request.host, request.port, decision.allowing_verdict, decision.presented
        if not await self._first_byte():
            return False
        is_tls = self._client.unread[0] == HANDSHAKE
        if not is_tls and decision.spoken == "anything":  # the server may speak HTTP in plaintext
            self.authorizer = TransparentAuthorizer(self._proxy.policy, *about)
            return True
        authorizer = HelloAuthorizer(self._proxy.policy, *about)
        try:
            hello = await read_hello(self._client, self._proxy.limits)
        except BadHello as fault:
            return await self._reset(authorizer.malformed(fault))
        if hello is None:
            return False
        found = self._proxy.judge_name(authorizer.authorize(hello))
        if found.refusal is not None:
            return await self._reset(found)
        if found.allowing_verdict.intercepted or self._is_named(request.host):
            return await self._end_tls(replace(found, method=decision.method), hello)
        return await self._tunnel_late(recorded, hello)

    def _is_named(self, host: Host) -> bool:
        """Return whether an entry has the connection's own host intercepted. By `--intercept all`
        only the name in the hello is, since --no-intercept may except it."""
        endpoints = self._proxy.policy.endpoints
        return endpoints is not None and endpoints.names(host)

    async def _tunnel_late(self, recorded: Recorded, hello: ClientHello) -> bool:
        """Dial a literal address for a hello that asks for a host which is not intercepted."""
        self._flow = None
        self._client.deadline = math.inf
        try:
            upstream = await self._connect(recorded)
        except UpstreamError as found:
            return await self._reset(recorded.decision.refused(found.refusal))
        retry = HelloRetry()
        retry.first = hello
        self._end_with_tunnel(upstream, recorded, b"", retry=retry)
        return False

    async def _first_byte(self) -> bool:
        """Wait for the client's first bytes, which are then in `unread`; False if it ends. Until
        then nothing is dialled for it, so its place may go to another client."""
        client = self._client
        client.expire_in(self._proxy.limits.idle)
        client.idle = True
        try:
            client.unread = client.unread or await client.receive()
        except Expired:
            self._closed_by = "idle"
            raise
        finally:
            client.idle = False
        return bool(client.unread)

    def _forget_spare(self) -> None:
        """Close a connection to another server, or to this one without TLS."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.transport.close()

    async def _end_tls(self, decision: Decision, hello: ClientHello) -> bool:
        """Record that the connection is intercepted, then shake hands with the client, whose hello
        is in `unread`. Returns True if requests follow; they are decided one by one."""
        await become_task()
        proxy, client, host = self._proxy, self._client, decision.destination[0]
        interception = proxy.interception
        if interception is None:
            raise AssertionError("nothing is intercepted")
        decision = replace(decision, mode="connect_intercept", upstream=None)
        if hello.alpn and not {HTTP1.encode(), HTTP2.encode()} & {*hello.alpn}:
            return await self._refuse_protocols(decision, DenialCode.NO_HTTP_OFFERED)
        client.deadline = math.inf
        recorded = await self._record(decision)
        if self._flow is None:
            self._flow = FlowStart(recorded, None, proxy.now())
        protocols = await self._shared_protocols(recorded, interception, hello)
        if not protocols:
            return await self._refuse_protocols(decision, DenialCode.NO_SHARED_PROTOCOL)
        try:
            protocol = await interception.accept(client, host, proxy.limits, protocols)
        except HandshakeFailed as failure:
            self._closed_by = "error"
            hint, alone = failure.hint, self._leave_alone(host)
            if hint is not None and alone is not None:
                hint = f"{hint}; {alone}"
            refusal = Refusal(400, failure.reason, hint, "intercept_handshake_failed")
            await self._record(decision.refused(refusal))
            return False
        self._is_established = False
        self._is_under_tls = self._is_silent = True
        about = host, decision.destination[1], decision.allowing_verdict, decision.presented
        self.authorizer = authorizer = InterceptedAuthorizer(proxy.policy, *about)
        if protocol == HTTP2:
            self._is_silent = False
            await self._serve_http2(authorizer, decision.destination[1])
            return False
        return True

    async def _record_silence(self) -> None:
        """Record that the client of an intercepted connection waited for the server to speak."""
        authorizer = self.authorizer
        if not self._is_silent or self._client.dropped:
            return
        if isinstance(authorizer, InterceptedAuthorizer):
            decision = authorizer.silent()
            if decision is not None:
                await self._record(decision)

    async def _shared_protocols(
        self, recorded: Recorded, interception: Intercepts, hello: ClientHello
    ) -> tuple[str, ...]:
        """The protocols to offer to the client (ALPN), after a look at what the server speaks.

        A server that can't be reached speaks what the client prefers: the client gets the reason
        with the answer to its first request.
        """
        offers = tuple(one for one in BOTH if one.encode() in hello.alpn)
        if HTTP2 not in offers:
            return HTTP1_ONLY
        host, port = recorded.decision.destination
        credentials = self._proxy.credentials
        if credentials is not None and credentials.has_token_url(host):
            return tuple(one for one in offers if one != HTTP2)  # answers are held back there
        speaks = interception.http2.speaks(host.name, port)
        if speaks is None:
            self._forget_spare()
            routed = Recorded(self._proxy.route(recorded.decision), recorded.sequence)
            try:
                spare = self._spare = await self._connect_tls(routed, BOTH)
            except UpstreamError as found:
                self._unreached = found
                return offers[-1:]
            speaks = spare.protocol == HTTP2
            interception.http2.note(host.name, port, speaks=speaks)
            self._client.deadline = math.inf
        return offers if speaks else tuple(one for one in offers if one != HTTP2)

    async def _serve_http2(self, authorizer: Authorizer, port: int) -> None:
        from nono_trio.proxy.http.http2.multiplexed import (  # late: h2 is large
            MultiplexedConnection,
        )

        spare, self._spare = self._spare, None
        unreached, self._unreached = self._unreached, None
        connection = MultiplexedConnection(
            self._client, self._proxy, authorizer, port, spare, unreached
        )
        self._closed_by = await connection.serve_streams()

    def _leave_alone(self, host: Host) -> str | None:
        flag = self._proxy.policy.no_intercept_flag(host)
        return None if flag is None else f"leave the host alone with {flag}"

    async def _refuse_protocols(self, decision: Decision, code: DenialCode) -> bool:
        hint = self._leave_alone(decision.destination[0])
        reason = format_reason(code)
        refusal = Refusal(400, reason, hint, "intercept_handshake_failed")
        await self._record(decision.refused(refusal))
        self._closed_by = "error"
        await self._client.drain(self._proxy.limits.linger, fatal_alert(NO_PROTOCOL))
        return False
