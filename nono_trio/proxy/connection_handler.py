"""The base of every connection's handler: containment, an upstream, a tunnel.

Rules of this file:
- Nothing that a client does raises out of `handle`. Only a lost audit log and cancellation do, and
  both close the socket without an answer.
- A decision is recorded before it takes effect: `_connect` takes what `_record` returns.
- A tunnel is the last part of a connection. It is relayed after `_serve` has returned, so an open
  tunnel, which may be idle for hours, keeps no bytes and no frames of its request.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.access.decision import FlowStart, Recorded, Refusal
from nono_trio.proxy.access.hello_authorizer import second_hello
from nono_trio.proxy.access.hello_guard import HelloGuard
from nono_trio.proxy.intercept.interfaces import HTTP1_ONLY, HandshakeFailed
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.proxy.transport.tunnel import Tunnel
from nono_trio.proxy.upstream.interfaces import DialFailed
from nono_trio.proxy.upstream.proxy_chain import ProxyChain, ProxyRejected
from nono_trio.proxy.upstream.resolver import AddressDenied, AddressResolver
from nono_trio.steps import become_task, in_task_unless_stepwise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.log.events import ClosedBy, NetworkEvent
    from nono_trio.core.log.processes import RecordOrigin
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.authorizer import Authorizer
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.access.token_failures import TokenFailures
    from nono_trio.proxy.credentials.credentials import Credentials
    from nono_trio.proxy.intercept.interfaces import Intercepts
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.transport.epoll import Readiness
    from nono_trio.proxy.transport.relay import RelayBuffer
    from nono_trio.proxy.transport.transport import Transport
    from nono_trio.proxy.transport.tunnel import FollowsHello, Look
    from nono_trio.proxy.upstream.interfaces import Dialler

logger = logging.getLogger(__name__)

FULL: Final = Refusal(
    503,
    format_reason(DenialCode.PROXY_FULL),
    "close connections that are not in use; --max-connections lets the proxy serve more",
)
BUSY: Final = Refusal(503, format_reason(DenialCode.AUDIT_BUSY), "try again")


async def never_made(*_: object) -> int:  # noqa: ASYNC124  (its place needs a coroutine)
    """The place of `ProxyContext.record` until that is made."""
    raise AssertionError


class ProxyContext(msgspec.Struct):
    """The objects that all connections of one proxy share."""

    policy: Policy
    authorizer: Authorizer
    """Decides about requests to the proxy itself."""
    recorder: RecordsDecisions
    resolver: AddressResolver
    dialler: Dialler
    limits: ProxyLimits
    readiness: Readiness
    buffer: RelayBuffer
    token_failures: TokenFailures
    now: Callable[[], int]
    """Wall clock in milliseconds since 1970."""
    chain: ProxyChain | None = None
    """The upstream proxy for connections that do not go out directly."""
    interception: Intercepts | None = None
    """None if the policy has no host looked into."""
    credentials: Credentials | None = None
    """None for a session without credentials."""
    closing: bool = False
    """No connection is accepted any more, so none is kept for another request."""
    record: Callable[[NetworkEvent, RecordOrigin | None], Awaitable[int]] = never_made
    """The recorder's `record`; a connection without a task may call it. So it is with `dialler`."""

    def __post_init__(self) -> None:
        self.dialler = in_task_unless_stepwise(self.dialler)
        self.record = in_task_unless_stepwise(self.recorder.record)

    def route(self, decision: Decision) -> Decision:
        """An allowed decision with the upstream proxy that the host is reached through, if any."""
        if self.chain is None:
            return decision
        proxy, (host, port) = self.chain.proxy, decision.destination
        if proxy.bypass.covers(host) or self.policy.addresses(host, port) is not None:
            return decision  # dialled directly: bypassed, or pinned to addresses
        return decision.through(proxy.shown)

    def judge_name(self, decision: Decision) -> Decision:
        """The decision about a host, now that its name was searched for stand-ins."""
        return decision if self.credentials is None else self.credentials.judge_name(decision)

    def chain_of(self, decision: Decision) -> ProxyChain | None:
        """The upstream proxy that a routed decision goes through; None if the host is dialled."""
        return None if decision.upstream is None else self.chain


class Upstream(msgspec.Struct, eq=False):
    """A connection to an upstream, the address that it reached, and the host and port that it was
    dialled for.

    `name` is the full name that has the address, if that is not the host's. `early`: bytes that the
    host has sent already. `chain`: the connection is to an upstream proxy, which takes requests in
    absolute form. `used`: a request went out on it. `protocol`: what its TLS has agreed to (ALPN).
    """

    transport: Transport
    address: str
    destination: tuple[Host, int]
    name: str | None = None
    early: bytes = b""
    chain: ProxyChain | None = None
    used: bool = False
    protocol: str | None = None
    over_tls: bool = False


class UpstreamError(Exception):
    """An allowed host can't be reached, or must not be; `refusal` is for record and answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class ConnectionHandler(ABC):
    """Serves one client. `full`: the proxy has no place for it and refuses what it asks for.

    Most attributes of a handler keep the value that its class has for them, so there are no slots.
    """

    _has_recorded = False
    _relaying: Coroutine[Any, Any, None] | None = None
    """Relays the tunnel that the connection ends with."""

    def __init__(self, client: Client, proxy_context: ProxyContext, *, full: bool) -> None:
        self._client = client
        self._proxy = proxy_context
        self._full = full

    async def handle(self) -> None:
        """Serve until one side has ended. Raises AuditLost; nothing else but cancellation leaves
        here, and in every case the client's socket is closed."""
        try:
            try:
                await self._serve()
                if self._relaying is not None:
                    await self._relaying
            except (OSError, Expired):
                pass  # the client left or took too long
            if not self._has_recorded:
                await self._record_unasked()
        except SessionSealed:
            pass  # the client came too late
        except AuditBusy:
            await self._say_busy()
        except AuditLost:
            raise
        except Exception as error:  # one bad client must not end the session of all the others
            _tell_bug(error)
        finally:
            self._close()

    async def _say_busy(self) -> None:
        """Give the one answer without an event: nothing was done."""
        try:
            await self._answer_busy()
        except (OSError, Expired):
            pass
        except Exception as error:  # as in `handle`
            _tell_bug(error)

    @abstractmethod
    async def _serve(self) -> None:
        """Decide, record, act. `handle` contains every error that this raises."""

    @abstractmethod
    async def _answer_busy(self) -> None:
        """Tell the client that nothing was recorded, so nothing done. `handle` contains every error
        that this raises."""

    def _close(self) -> None:
        self._client.close()

    async def _record_unasked(self) -> None:
        """Record a connection that had no record, if policy refuses what it was to. Raises as
        `_record`."""
        decision = self._unasked()
        if decision is not None:
            await self._record(decision)

    def _unasked(self) -> Decision | None:
        """The refusal of a connection that ended before it asked for anything; None if connecting
        alone is no attempt, as to the proxy itself or to an allowed host."""
        return None

    async def _record(self, decision: Decision) -> Recorded:
        """Commit a decision to the log, before it takes effect. Raises AuditBusy, AuditLost and
        SessionSealed."""
        return Recorded(decision, await self._commit(decision))

    def _commit(self, decision: Decision) -> Awaitable[int]:
        """As `_record`, for a caller that needs no `Recorded`, as of a refusal. The decision is in
        the log, and may take effect, once this was awaited."""
        proxy = self._proxy
        self._has_recorded = True
        now, credentials = proxy.now(), proxy.credentials
        event = decision.event(now) if credentials is None else credentials.event(decision, now)
        return proxy.record(event, self._client.origin)

    async def _connect(self, recorded: Recorded, *, for_tunnel: bool = True) -> Upstream:
        """Look up, check and dial an allowed host, or have the upstream proxy do so.

        `for_tunnel`: raw bytes go to it; otherwise HTTP requests, which an upstream proxy takes in
        absolute form. Raises UpstreamError.
        """
        proxy, tcp, decision = self._proxy, self._client.tcp, recorded.decision
        tcp.register()  # before a socket is open that a failure would leave behind
        destination = host, port = decision.destination
        chain = None if proxy.chain is None else proxy.chain_of(decision)
        name, early = None, b""
        try:
            if chain is None or host.address is not None:  # a literal is checked in any case
                resolver = proxy.resolver
                found = resolver.known(host, port) or await resolver.addresses(host, port)
                name = found.name
            if chain is None:
                sock, address = await proxy.dialler(found.addresses)
            elif for_tunnel:
                await become_task()
                sock, address, early = await chain.tunnel(host, port)
            else:
                await become_task()
                sock, address = await chain.connect()
        except ProxyRejected as rejected:
            refusal = Refusal(502, rejected.reason, rejected.hint, "external_proxy_rejected")
            raise UpstreamError(refusal) from rejected
        except AddressDenied as denial:
            raise UpstreamError(Refusal(403, denial.reason, denial.hint, "host_denied")) from denial
        except DialFailed as failure:
            reason = format_reason(
                DenialCode.CONNECT_FAILED,
                destination=f"{host.bracketed()}:{port}",
                detail=failure.reason,
            )
            refusal = Refusal(failure.status, reason, failure.hint, "upstream_connect_failed")
            raise UpstreamError(refusal) from failure
        transport = TcpTransport(sock, "upstream", tcp.waker, proxy.readiness)
        try:
            transport.register()
        except OSError:
            transport.close()
            raise
        via = None if for_tunnel else chain
        return Upstream(transport, address, destination, name, early, via)

    def _end_with_tunnel(
        self,
        upstream: Upstream,
        recorded: Recorded,
        greeting: bytes,
        look: Look | None = None,
        retry: FollowsHello | None = None,
    ) -> None:
        """Have a tunnel relayed once `_serve` has returned, which must do so without a wait.

        `greeting` is sent to the client first. `look` runs before the relay and may end the tunnel.
        `retry` follows a TLS handshake: a second hello for another host than the first is refused.
        Raw bytes are followed for a hello that asks for an intercepted host.
        """
        if retry is None and self._proxy.interception is not None:
            retry = HelloGuard(self._proxy.policy)
        tunnel = Tunnel(
            self._client, upstream.transport, self._proxy.buffer, upstream.early, look, retry
        )
        self._relaying = self._run_tunnel(tunnel, self._start_flow(upstream, recorded), greeting)

    async def _run_tunnel(self, tunnel: Tunnel, start: FlowStart, greeting: bytes) -> None:
        """Relay until an end, then close the upstream and log the flow."""
        try:
            await tunnel.carry(self._proxy.limits, greeting)
        except (BadHello, OtherHello) as fault:
            # In the middle of a handshake any bytes of ours could be taken for the server's.
            with suppress(AuditBusy):  # the reset says it as well
                await self._record(second_hello(start.recorded.decision, fault))
            self._client.transport.reset()
        finally:
            tunnel.up.sink.close()
            self._log(start, tunnel.up.moved, tunnel.down.moved, tunnel.closed_by)

    async def _connect_tls(
        self, recorded: Recorded, protocols: tuple[str, ...] = HTTP1_ONLY
    ) -> Upstream:
        """Connect to an allowed host, also through an upstream proxy, and put verified TLS over the
        connection. The host is offered `protocols`. Raises UpstreamError."""
        interception = self._proxy.interception
        if interception is None:
            raise AssertionError("nothing is intercepted")
        await become_task()
        upstream = await self._connect(recorded)
        host, port = recorded.decision.destination
        is_done = False
        try:
            tls = await interception.secure(
                self._client,
                upstream.transport,
                upstream.early,
                host,
                self._proxy.limits,
                protocols,
            )
            upstream.transport, upstream.protocol, upstream.over_tls = tls, tls.protocol, True
            is_done = True
        except HandshakeFailed as failure:
            destination = f"{host.bracketed()}:{port}"
            code = DenialCode.CONNECT_FAILED
            reason = format_reason(code, destination=destination, detail=failure.reason)
            status = 504 if failure.is_late else 502
            refusal = Refusal(status, reason, failure.hint, "upstream_connect_failed")
            raise UpstreamError(refusal) from failure
        finally:
            if not is_done:
                upstream.transport.close()
        upstream.early = b""
        return upstream

    def _start_flow(self, upstream: Upstream, recorded: Recorded) -> FlowStart:
        proxy, name = self._proxy, upstream.name
        start = FlowStart(recorded, upstream.address, proxy.now())
        if name is not None:
            credentials = proxy.credentials
            start.name = name if credentials is None else credentials.shown_name(name)
        return start

    def _log(self, start: FlowStart, sent: int, received: int, closed_by: ClosedBy) -> None:
        """Log what moved; neither waits nor raises, so that it may be called while cancelled."""
        self._proxy.recorder.record_flow(start.end(sent, received, closed_by))


def _tell_bug(error: Exception) -> None:
    logger.error("a connection was cut by a bug: %s", type(error).__name__)
    logger.debug("its cause", exc_info=True)


class ConnectionHandlerFactory(Protocol):
    """Makes the handler of one client; `HttpConnection` is one."""

    def __call__(
        self, client: Client, proxy_context: ProxyContext, *, full: bool
    ) -> ConnectionHandler:
        """Must neither raise nor wait."""
        ...
