"""What every connection gets, whatever is spoken on it: containment, an upstream, a tunnel.

Rules of this file: nothing that a client does raises out of `handle`; only a lost audit log and
cancellation do, and both end with the socket closed unanswered. A decision comes first: whoever
calls `_upstream` or `_carry` has recorded it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.core.net.client_hello import BadHello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.access.decision import Refusal, Subject, denied
from nono_trio.proxy.access.flow import Opened
from nono_trio.proxy.access.hello_authorizer import second_hello
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.proxy.transport.tunnel import Tunnel
from nono_trio.proxy.upstream.interfaces import DialFailed
from nono_trio.proxy.upstream.proxy_chain import ProxyChain, ProxyRejected
from nono_trio.proxy.upstream.resolver import AddressDenied, AddressResolver

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.recorder import RecordsDecisions
    from nono_trio.core.net.hello_retry import HelloRetry
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.proxy.access.authorizer import Authorizer
    from nono_trio.proxy.access.token_failures import TokenFailures
    from nono_trio.proxy.limits import Limits
    from nono_trio.proxy.transport.epoll import Readiness
    from nono_trio.proxy.transport.relay import RelayBuffer
    from nono_trio.proxy.transport.transport import Transport
    from nono_trio.proxy.transport.tunnel import Look
    from nono_trio.proxy.upstream.interfaces import Dialler

logger = logging.getLogger(__name__)

FULL: Final = Refusal(
    503,
    format_reason(DenialCode.PROXY_FULL),
    "close connections that are not in use, or try again",
)
BUSY: Final = Refusal(503, format_reason(DenialCode.AUDIT_BUSY), "try again")


@dataclass(slots=True)
class ProxyContext:
    """What every connection of one proxy shares."""

    policy: Policy
    gate: Authorizer
    recorder: RecordsDecisions
    directory: AddressResolver
    dialler: Dialler
    limits: Limits
    readiness: Readiness
    buffer: RelayBuffer
    token_failures: TokenFailures
    now: Callable[[], int]
    """Wall clock in milliseconds since 1970."""
    chain: ProxyChain | None = None
    """What connections go through that do not go out directly."""
    closing: bool = False
    """Nothing is accepted any more, so no connection is kept for another request."""

    def chain_for(self, host: Host, port: int) -> ProxyChain | None:
        """The upstream proxy that an allowed host is reached through; None if it is dialled."""
        chain = self.chain
        if chain is None or chain.proxy.bypass.covers(host):
            return None
        is_pinned = self.policy.addresses(host, port) is not None
        return None if is_pinned else chain

    def route(self, subject: Subject, host: Host, port: int) -> None:
        """Have the record say that an allowed host is reached through the upstream proxy."""
        chain = self.chain_for(host, port)
        if chain is not None:
            subject.mode, subject.upstream = "external", chain.proxy.shown
            subject.note = self.policy.decide(host, port).entry_note  # the name goes as it is


@dataclass(slots=True, eq=False)
class Upstream:
    """A connection to an upstream, the address that it reached, and the host and port that it was
    dialled for.

    `name` is the full name that has the address, where that is not the host's. `early`: what the
    host has said already. `chain`: the connection is to an upstream proxy, which takes requests in
    absolute form. `used`: a request went out on it.
    """

    transport: Transport
    address: str
    key: tuple[str, int]
    name: str | None = None
    early: bytes = b""
    chain: ProxyChain | None = None
    used: bool = False


class UpstreamError(Exception):
    """An allowed host that could not be reached, or must not be; `refusal` is for record and
    answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class ConnectionHandler(ABC):
    """Serves one client. `full`: the proxy has no place for it and says so to what it asks."""

    __slots__ = ("_client", "_full", "_proxy")

    def __init__(self, client: Client, proxy_context: ProxyContext, *, full: bool) -> None:
        self._client = client
        self._proxy = proxy_context
        self._full = full

    async def handle(self) -> None:
        """Serve until one side is done. Raises AuditLost; nothing else but cancellation leaves
        here, and in every case the client's socket is closed."""
        try:
            await self._serve()
        except (OSError, Expired, SessionSealed):
            return  # the client left, took too long, or came too late: nobody is left to answer
        except AuditBusy:  # the one answer without an event: nothing was done
            await self._answer_busy()
        except AuditLost:
            raise
        except Exception as error:  # one bad client must not end the session of all the others
            logger.error("a connection was cut by a bug: %s", type(error).__name__)  # noqa: TRY400
            logger.debug("its cause", exc_info=True)
        finally:
            self._close()

    @abstractmethod
    async def _serve(self) -> None:
        """Decide, record, act. May raise whatever `handle` contains."""

    @abstractmethod
    async def _answer_busy(self) -> None:
        """Tell the client that nothing was recorded, so nothing done. Raises only Cancelled."""

    def _close(self) -> None:
        self._client.close()

    async def _upstream(self, host: Host, port: int, *, for_tunnel: bool = True) -> Upstream:
        """Find, check and dial an allowed host, or have the upstream proxy do so.

        `for_tunnel`: bytes will go to it as they come, and not requests, which an upstream proxy
        takes as such. Raises Unreached.
        """
        self._client.register()  # before anything is open that a failure would leave behind
        chain = self._proxy.chain_for(host, port)
        name, early = None, b""
        try:
            if chain is None or host.address is not None:  # a literal is checked in any case
                found = await self._proxy.directory.addresses(host, port)
                name = found.name
            if chain is None:
                sock, address = await self._proxy.dialler(found.addresses, port)
            elif for_tunnel:
                sock, address, early = await chain.tunnel(host, port)
            else:
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
        transport = TcpTransport(sock, "upstream", self._client.waker, self._proxy.readiness)
        try:
            transport.register()
        except OSError:
            transport.close()
            raise
        chain = None if for_tunnel else chain
        return Upstream(transport, address, (host.name, port), name, early, chain)

    async def _carry(
        self,
        upstream: Upstream,
        subject: Subject,
        sequence: int,
        greeting: bytes,
        look: Look | None = None,
        retry: HelloRetry | None = None,
    ) -> None:
        """Tunnel until an end; `greeting` tells the client that it stands, and `look` may end it
        before anything moves. Closes the upstream. `retry` follows a TLS handshake, whose second
        hello is refused if it is for another host than the first."""
        opened = Opened(subject, sequence, upstream.address, self._proxy.now(), upstream.name)
        tunnel = Tunnel(self._client, upstream.transport, self._proxy.buffer, upstream.early)
        try:
            await tunnel.carry(self._proxy.limits, greeting, look, retry)
        except (BadHello, OtherHello) as fault:
            await self._refuse_hello(subject, fault)
        finally:
            upstream.transport.close()
            flow = opened.flow(tunnel.up.moved, tunnel.down.moved, tunnel.closed_by)
            self._proxy.recorder.record_flow(flow)

    async def _refuse_hello(self, subject: Subject, fault: BadHello | OtherHello) -> None:
        """Record why a handshake can't go on, and have the connection reset: in the middle of a
        handshake there is no word of ours that could not be taken for the server's."""
        host, refusal = second_hello(subject.target, fault)
        presented = subject.presented
        about = Subject("connect", host, subject.port, "TLS", presented=presented)
        await self._proxy.recorder.record(denied(about, refusal, self._proxy.now()))
        self._client.transport.reset()


class ConnectionHandlerFactory(Protocol):
    """Makes what serves one client; `HttpConnection` is one."""

    def __call__(
        self, client: Client, proxy_context: ProxyContext, *, full: bool
    ) -> ConnectionHandler:
        """Not to raise and not to wait."""
        ...
