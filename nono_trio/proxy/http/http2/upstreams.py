"""The connections to the one server of an HTTP/2 client: dialled once for all who wait.

Rules of this file:
- A dial has its own task and waker, since the client's task serves the other streams meanwhile.
  Afterwards the waker wakes the client's task.
- All streams that wait for a dial get its outcome, also if it failed.
- A connection that the server is leaving (GOAWAY) gets no other stream; the next stream has another
  one dialled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.connection_handler import ConnectionHandler, UpstreamError
from nono_trio.proxy.http.http2.peer import Http2Peer
from nono_trio.proxy.http.http2.stream import UpstreamPeer
from nono_trio.proxy.intercept.interfaces import HTTP2
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.proxy.transport.transport import TcpTransport
from nono_trio.waker import Waker

if TYPE_CHECKING:
    from nono_trio.proxy.access.decision import Recorded
    from nono_trio.proxy.connection_handler import ProxyContext, Upstream

MAX_UPSTREAMS: Final = 4  # connections to the server: one, and those that it is leaving


@dataclass(slots=True, eq=False)
class _Dial:
    done: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class Upstreams(ConnectionHandler):
    """The connections to the server; `all` are the open ones. `unreached` is why an earlier dial
    has failed."""

    __slots__ = ("_dial", "_real", "_unreached", "all")

    def __init__(
        self,
        client: Client,
        proxy_context: ProxyContext,
        first: Upstream | None,
        unreached: UpstreamError | None,
    ) -> None:
        super().__init__(_Waiting(client, proxy_context), proxy_context, full=False)
        self.all: list[UpstreamPeer] = []
        self._real = client
        self._dial: _Dial | None = None
        self._unreached = unreached
        if first is not None:
            self.all.append(UpstreamPeer(first, Http2Peer(first.transport, is_client=False)))

    def ready(self) -> UpstreamPeer | None:
        """Return an open connection for another stream, if there is one."""
        for one in self.all:
            if not one.is_left and not one.peer.is_going:
                return one
        return None

    async def find(self, recorded: Recorded) -> UpstreamPeer:
        """Return a connection for another stream. Raises UpstreamError.

        An error of the one dial is raised for each stream that waits for it.
        """
        unreached, self._unreached = self._unreached, None
        if unreached is not None:
            raise unreached
        while True:
            if (one := self.ready()) is not None:
                return one
            if self._dial is None:
                return await self._dial_for_all(recorded)
            dial = self._dial
            await dial.done.wait()
            if dial.error is not None:
                raise dial.error
            # The server may have left already what was dialled, so it is looked for again.

    async def _dial_for_all(self, recorded: Recorded) -> UpstreamPeer:
        self._dial = dial = _Dial()
        try:
            found = await self._connect_http2(recorded)
            self.all.append(found)
        except Exception as error:  # for all who wait, too
            dial.error = error
            raise
        finally:
            self._dial = None
            dial.done.set()
        return found

    async def _connect_http2(self, recorded: Recorded) -> UpstreamPeer:
        if len(self.all) >= MAX_UPSTREAMS:
            reason = format_reason(DenialCode.UPSTREAMS_FULL, count=MAX_UPSTREAMS)
            raise _unreached(recorded, reason)
        self._client = _Waiting(self._real, self._proxy)
        upstream = await self._connect_tls(recorded, (HTTP2,))
        if upstream.protocol != HTTP2:
            upstream.transport.close()
            host, port = recorded.decision.destination
            if self._proxy.interception is not None:
                self._proxy.interception.http2.forget(host.name, port)
            raise _unreached(recorded, format_reason(DenialCode.PROTOCOL_GONE))
        return UpstreamPeer(upstream, Http2Peer(upstream.transport, is_client=False))

    async def _serve(self) -> None:
        raise AssertionError("it dials only")

    _answer_busy = _serve


def _unreached(recorded: Recorded, detail: str) -> UpstreamError:
    host, port = recorded.decision.destination
    reason = format_reason(
        DenialCode.CONNECT_FAILED,
        destination=f"{host.bracketed()}:{port}",
        detail=detail,
    )
    return UpstreamError(Refusal(502, reason, "try again", "upstream_connect_failed"))


class _DialWaker(Waker):
    """Wakes the task that dials; or if none sleeps, the client's."""

    __slots__ = ("_others",)

    def __init__(self, others: Waker) -> None:
        super().__init__()
        self._others = others

    def wake(self) -> None:
        super().wake()
        self._others.wake()


class _Waiting(Client):
    """Stands for the client while a task of ours dials. It has a deadline of its own."""

    __slots__ = ("_ends",)

    def __init__(self, client: Client, proxy_context: ProxyContext) -> None:
        self._waker = _DialWaker(client.tcp.waker)
        self.tcp = TcpTransport(client.tcp.sock, "client", self._waker, proxy_context.readiness)
        self.tcp.is_registered = True  # the client's own transport is
        self.transport = self.tcp
        self.origin = client.origin
        self.unread = b""
        self.expired = self.dropped = False
        self._ends = trio.current_time()

    def expire_in(self, seconds: float) -> None:
        self._ends = trio.current_time() + seconds

    async def pause(self, seconds: float | None = None) -> None:
        with trio.move_on_at(self._ends) as scope:
            await self._waker.sleep()
        if scope.cancelled_caught:
            raise Expired
