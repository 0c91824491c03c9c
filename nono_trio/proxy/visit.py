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

from nono_trio.core.client_hello import BadHello
from nono_trio.core.hello_retry import OtherHello
from nono_trio.errors import AuditBusy, AuditLost, SessionSealed
from nono_trio.proxy.client import Client, Expired
from nono_trio.proxy.connect import Tunnel
from nono_trio.proxy.contracts import DialFailed
from nono_trio.proxy.decisions import Refusal, Subject, denied
from nono_trio.proxy.flows import Opened
from nono_trio.proxy.hello_judge import second_hello
from nono_trio.proxy.proxy_chain import ProxyChain, ProxyRejected
from nono_trio.proxy.resolve import AddressDenied, Directory
from nono_trio.proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.recorder import RecordsDecisions
    from nono_trio.core.hello_retry import HelloRetry
    from nono_trio.core.hosts import Host
    from nono_trio.core.policy import Policy
    from nono_trio.proxy.connect import Look
    from nono_trio.proxy.contracts import Dialler
    from nono_trio.proxy.gate import Judge
    from nono_trio.proxy.limits import Limits
    from nono_trio.proxy.readiness import Readiness
    from nono_trio.proxy.relay import RelayBuffer
    from nono_trio.proxy.token_failures import TokenFailures

logger = logging.getLogger(__name__)

FULL: Final = Refusal(
    503,
    "the proxy has as many connections as it can hold",
    "close connections that are not in use, or try again",
)
BUSY: Final = Refusal(503, "the audit log can't keep up, nothing was done", "try again")


@dataclass(slots=True)
class Surroundings:
    """What every connection of one proxy shares."""

    policy: Policy
    gate: Judge
    recorder: RecordsDecisions
    directory: Directory
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


class Unreached(Exception):
    """An allowed host that could not be reached, or must not be; `refusal` is for record and
    answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Visit(ABC):
    """Serves one client. `full`: the proxy has no place for it and says so to what it asks."""

    __slots__ = ("_at", "_client", "_full")

    def __init__(self, client: Client, surroundings: Surroundings, *, full: bool) -> None:
        self._client = client
        self._at = surroundings
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
        chain = self._at.chain_for(host, port)
        name, early = None, b""
        try:
            if chain is None or host.address is not None:  # a literal is checked in any case
                found = await self._at.directory.addresses(host, port)
                name = found.name
            if chain is None:
                sock, address = await self._at.dialler(found.addresses, port)
            elif for_tunnel:
                sock, address, early = await chain.tunnel(host, port)
            else:
                sock, address = await chain.connect()
        except ProxyRejected as rejected:
            refusal = Refusal(502, rejected.reason, rejected.hint, "external_proxy_rejected")
            raise Unreached(refusal) from rejected
        except AddressDenied as denial:
            raise Unreached(Refusal(403, denial.reason, denial.hint, "host_denied")) from denial
        except DialFailed as failure:
            reason = f"can't connect to {host.bracketed()}:{port}: {failure.reason}"
            refusal = Refusal(failure.status, reason, failure.hint, "upstream_connect_failed")
            raise Unreached(refusal) from failure
        key = (host.name, port)
        upstream = Upstream(sock, address, key, self._at.readiness, self._client.waker, name)
        upstream.early = early
        upstream.chain = None if for_tunnel else chain
        return upstream

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
        opened = Opened(subject, sequence, upstream.address, self._at.now(), upstream.name)
        buffer, readiness = self._at.buffer, self._at.readiness
        tunnel = Tunnel(self._client, upstream, buffer, readiness, upstream.early)
        try:
            await tunnel.run(self._at.limits, greeting, look, retry)
        except (BadHello, OtherHello) as fault:
            await self._refuse_hello(subject, fault)
        finally:
            upstream.close()
            flow = opened.flow(tunnel.up.moved, tunnel.down.moved, tunnel.closed_by)
            self._at.recorder.record_flow(flow)

    async def _refuse_hello(self, subject: Subject, fault: BadHello | OtherHello) -> None:
        """Record why a handshake can't go on, and have the connection reset: in the middle of a
        handshake there is no word of ours that could not be taken for the server's."""
        host, refusal = second_hello(subject.target, fault)
        presented = subject.presented
        about = Subject("connect", host, subject.port, "TLS", presented=presented)
        await self._at.recorder.record(denied(about, refusal, self._at.now()))
        self._client.reset()


class VisitFactory(Protocol):
    """Makes what serves one client; `Handler` is one."""

    def __call__(self, client: Client, surroundings: Surroundings, *, full: bool) -> Visit:
        """Not to raise and not to wait."""
        ...
