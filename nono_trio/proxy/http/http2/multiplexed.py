"""One HTTP/2 client under intercepted TLS: many requests at once, served by one task.

That task moves all bytes: it takes the client's frames (`requests.py`) and the server's
(`upstream_streams.py`, `responses.py`), moves the bodies (`bodies.py`) and sends what waits. The
steps of a request, as in http/connection.py, are in `stream_lifecycle.py`.

Rules of this file:
- A fault of the connection, or more than its bounds, ends the connection with a record and GOAWAY.
- Streams take turns, a body frame each.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.http2_frames import NO_ERROR, PROTOCOL_ERROR, Http2Fault
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.errors import AuditBusy
from nono_trio.proxy.connection_handler import ConnectionHandler, UpstreamError
from nono_trio.proxy.http.http2.bodies import BodyMover
from nono_trio.proxy.http.http2.peer import Http2Peer
from nono_trio.proxy.http.http2.requests import Requests
from nono_trio.proxy.http.http2.responses import Responses
from nono_trio.proxy.http.http2.stream_lifecycle import StreamLifecycle
from nono_trio.proxy.http.http2.upstream_streams import UpstreamStreams
from nono_trio.proxy.http.http2.upstreams import Upstreams
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.access.authorizer import Authorizer
    from nono_trio.proxy.connection_handler import ProxyContext, Upstream
    from nono_trio.proxy.http.http2.stream import Http2Stream


class MultiplexedConnection(ConnectionHandler):
    """Serves an HTTP/2 client, whose connection is to `port` of the server. `upstream` is a
    connection to the server that was dialled before, `unreached` is why that failed."""

    __slots__ = (
        "_bodies",
        "_closed_by",
        "_head_ends",
        "_lifecycle",
        "_peer",
        "_requests",
        "_upstream_streams",
    )

    def __init__(
        self,
        client: Client,
        proxy_context: ProxyContext,
        authorizer: Authorizer,
        port: int,
        upstream: Upstream | None = None,
        unreached: UpstreamError | None = None,
    ) -> None:
        super().__init__(client, proxy_context, full=False)
        self._peer = peer = Http2Peer(client.transport, is_client=True)
        self._bodies = BodyMover(proxy_context.buffer)
        upstreams = Upstreams(client, proxy_context, upstream, unreached)
        self._lifecycle = lifecycle = StreamLifecycle(
            peer, proxy_context, upstreams, self._bodies, self._record, client.tcp.waker.wake
        )
        self._requests = Requests(peer, proxy_context, authorizer, port, lifecycle)
        self._upstream_streams = UpstreamStreams(
            peer, upstreams, lifecycle, Responses(peer, lifecycle), self._start_flow
        )
        self._closed_by: ClosedBy = "client"
        self._head_ends = math.inf

    async def serve_streams(self) -> ClosedBy:
        """Serve until either side ends the connection; return which one.

        A log that can't keep up resets the connection: an answer of HTTP/1.1 has no place here.
        Raises as `ConnectionHandler.handle` expects it. Also if cancelled, every flow is logged and
        each connection to the server is closed.
        """
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as self._lifecycle.nursery:
                try:
                    await self._serve()
                except Exception as error:  # raised below: a nursery would wrap it
                    failure = error
                failure = await self._record_cut_off() or failure
                self._end_all()  # the nursery waits for records, each bounded by the recorder
        finally:
            self._end_all()
        failure = failure or self._lifecycle.failure
        if isinstance(failure, AuditBusy):
            self._client.transport.reset()
            return "error"
        if failure is not None:
            raise failure
        return self._closed_by

    async def _record_cut_off(self) -> Exception | None:
        """Record the requests that ended before they could be judged. Returns the error of a log
        that takes no record."""
        try:
            for decision in self._requests.unjudged.take_cut_off():
                await self._record(decision)
        except Exception as error:  # as in `serve_streams`
            return error
        return None

    async def _serve(self) -> None:
        while self._lifecycle.failure is None:
            try:
                moved = self._receive()
            except Http2Fault as fault:
                await self._end_by(fault)
                return
            moved = self._move() or moved
            if self._has_ended:
                return
            if moved:
                await trio.lowlevel.checkpoint()
            elif self._client.transport.broken:
                raise SideFailed("client")
            elif not await self._pause():
                return
        raise self._lifecycle.failure

    def _receive(self) -> bool:
        """Take in the client's next frames; return whether any came. Raises Http2Fault,
        SideFailed."""
        if self._upstream_streams.hold_back:
            return False
        events = self._peer.receive(trio.current_time())
        for event in events or ():
            self._requests.take(event)
        return events is not None

    def _move(self) -> bool:
        """Take in the servers' frames and move what can be moved; return whether anything was."""
        moved = self._upstream_streams.serve()
        moved = self._move_bodies() or moved
        moved = self._peer.flush() or moved
        moved = self._upstream_streams.flush() or moved
        moved = self._lifecycle.reset_unread() or moved
        moved = self._requests.unjudged.refuse_late(trio.current_time()) or moved
        if self._proxy.closing and not self._peer.is_leaving:
            self._peer.refuse_more()
        return moved

    @property
    def _has_ended(self) -> bool:
        """True if the client has ended, or one side is leaving and all is done."""
        peer = self._peer
        is_over = peer.is_leaving or peer.splitter.going is not None
        return peer.has_ended or (is_over and not self._lifecycle.streams and not peer.unsent)

    def _move_bodies(self) -> bool:
        """Move a body frame of each stream, both ways; return whether any moved."""
        moved, turns = False, self._lifecycle.turns
        turns.rotate(-1)  # each one is the first some time
        for stream in [*turns]:
            if stream.is_done:
                continue
            moved = self._move_up(stream) or moved
            if stream.is_answered:
                moved = self._move_down(stream) or moved
                if stream.down.is_sent:
                    self._lifecycle.finish(stream, NO_ERROR)
        return moved

    def _move_up(self, stream: Http2Stream) -> bool:
        one, number = stream.upstream, stream.upstream_number
        if one is None or not stream.may_move_up:
            return False
        return self._bodies.move(stream.up, one.peer, number, self._peer, stream.number)

    def _move_down(self, stream: Http2Stream) -> bool:
        one = stream.upstream
        source = None if one is None else one.peer
        number = stream.upstream_number
        return self._bodies.move(stream.down, self._peer, stream.number, source, number)

    async def _pause(self) -> bool:
        """Wait for a side or a task; return False if that took too long."""
        client, limits = self._client, self._proxy.limits
        client.expire_in(limits.idle if self._lifecycle.streams else limits.keep_alive)
        # Bytes do not extend the time for a head, as for HTTP/1.1.
        if not self._peer.splitter.in_head:
            self._head_ends = math.inf
        elif self._head_ends == math.inf:
            self._head_ends = trio.current_time() + limits.head
        next_reset = min(self._lifecycle.next_reset, self._requests.unjudged.next_deadline)
        client.deadline = min(client.deadline, self._head_ends, next_reset)
        client.idle = not self._lifecycle.streams
        try:
            await client.pause()
        except Expired:
            if client.dropped:
                raise
            if trio.current_time() >= next_reset:
                return True
            if self._peer.splitter.in_head:
                reason = format_reason(DenialCode.HEAD_TIMEOUT, seconds=limits.head)
                await self._end_by(Http2Fault(PROTOCOL_ERROR, reason))
            else:
                self._closed_by = "idle"
                self._peer.refuse_more()
                self._peer.flush()
            return False
        finally:
            client.idle = False
        return True

    async def _end_by(self, fault: Http2Fault) -> None:
        """Record what the client broke, and end the connection."""
        self._closed_by = "error"
        self._peer.refuse_more(fault.code)
        with suppress(AuditBusy):
            await self._record(self._requests.malformed(BadRequest(400, fault.reason)))
        await self._client.drain(self._proxy.limits.linger, self._peer.take_unsent())

    def _end_all(self) -> None:
        is_cut = trio.current_effective_deadline() == -math.inf
        self._lifecycle.end_all("shutdown" if is_cut else self._closed_by)
        self._upstream_streams.close_all()

    async def _answer_busy(self) -> None:
        raise AssertionError("streams answer for themselves")
