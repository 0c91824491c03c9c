"""One HTTP/2 client under intercepted TLS: many requests at once, each with a life of its own.

Each stream goes through the steps of http/connection.py: authorize, record, connect, relay, log.
One task moves all bytes; a request is recorded, and a server dialled, in a task beside it, so no
stream waits for the record of another one.

Rules of this file:
- A request goes out only after its decision is in the log, with the path that was judged.
- A fault of a request or a response ends its stream. A fault of the connection, or more than its
  bounds, ends the connection with a record and GOAWAY.
- Streams take turns, a body frame each.
- A server's failure before its answer is a 502, after it a reset.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from h2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.hidden_request import REASON
from nono_trio.core.http.http2_frames import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Http2Fault,
)
from nono_trio.core.http.http2_head import (
    FieldFault,
    check_trailers,
    outgoing_fields,
    request_bytes,
)
from nono_trio.core.policy.endpoint_policy import is_override_field
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.errors import AuditBusy
from nono_trio.proxy.access.authorizer import ConnectRequest
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.connection_handler import BUSY, FULL, ConnectionHandler, UpstreamError
from nono_trio.proxy.http.error_response import refusal_text
from nono_trio.proxy.http.exchange import unanswered
from nono_trio.proxy.http.http2.peer import MAX_OPEN, MAX_UNSENT, Http2Peer
from nono_trio.proxy.http.http2.responses import Responses
from nono_trio.proxy.http.http2.stream import Http2Stream, UpstreamPeer, size
from nono_trio.proxy.http.http2.upstreams import Upstreams
from nono_trio.proxy.intercept.http2_state import MAX_STREAMS
from nono_trio.proxy.limits import MAX_HELD
from nono_trio.proxy.transport.client import Client, Expired
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from h2.events import Event

    from nono_trio.core.http.message import Field
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.access.authorizer import Authorizer
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.connection_handler import ProxyContext, Upstream

TOO_SHORT: Final = "the body ends before its content-length"
_ANY_REQUEST: Final = b"GET / HTTP/1.1\r\n"  # stands for one that could not be read


class MultiplexedConnection(ConnectionHandler):
    """Serves an HTTP/2 client, whose connection is to `host` and `port`. `upstream` is a connection
    to the server that was dialled before, `unreached` is why that failed."""

    __slots__ = (
        "_authorizer",
        "_closed_by",
        "_failure",
        "_head_ends",
        "_is_leaving",
        "_nursery",
        "_ours",
        "_peer",
        "_port",
        "_responses",
        "_state",
        "_streams",
        "_turns",
        "_upstreams",
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
        if proxy_context.interception is None:
            raise AssertionError("nothing is intercepted")
        self._state = proxy_context.interception.http2
        self._authorizer = authorizer
        self._port = port
        self._peer = Http2Peer(client.transport, is_client=True)
        self._upstreams = Upstreams(client, proxy_context, upstream, unreached)
        self._streams: dict[int, Http2Stream] = {}
        self._turns: deque[Http2Stream] = deque()
        self._ours: deque[tuple[float, Http2Stream]] = deque()
        """Streams that got an answer of ours, and when each is reset; the earliest is first."""
        self._responses = Responses(self._peer, proxy_context.buffer, self._finish, self._fail)
        self._closed_by: ClosedBy = "client"
        self._failure: Exception | None = None
        """The error that a task beside has raised."""
        self._head_ends = math.inf
        self._is_leaving = False
        """GOAWAY was sent, so no stream is served that is new."""

    async def serve_streams(self) -> ClosedBy:
        """Serve until either side ends the connection; return which one.

        A log that can't keep up resets the connection: an answer of HTTP/1.1 has no place here.
        Raises as `ConnectionHandler.handle` expects it. Also if cancelled, every flow is logged and
        each connection to the server is closed.
        """
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await self._serve()
                except Exception as error:  # raised below: a nursery would wrap it
                    failure = error
                self._nursery.cancel_scope.cancel(reason="the client's connection has ended")
        finally:
            self._end_all()
        if isinstance(failure, AuditBusy):
            self._client.transport.reset()
            return "error"
        if failure is not None:
            raise failure
        return self._closed_by

    async def _serve(self) -> None:
        client = self._client
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                moved = self._receive()
            except Http2Fault as fault:
                await self._end_by(fault)
                return
            for one in [*self._upstreams.all]:
                moved = self._serve_upstream(one) or moved
            moved = self._move_bodies() or moved
            moved = self._flush() or moved
            if self._ours:
                moved = self._reset_unread() or moved
            if self._proxy.closing and not self._is_leaving:
                self._leave()
            is_over = self._is_leaving or self._peer.splitter.going is not None
            if self._peer.has_ended or (is_over and not self._streams and not self._peer.unsent):
                return
            if moved:
                await trio.lowlevel.checkpoint()
            elif client.transport.broken:
                raise SideFailed("client")
            elif not await self._pause():
                return

    async def _answer_busy(self) -> None:
        raise AssertionError("streams answer for themselves")

    def _leave(self) -> None:
        self._is_leaving = True
        self._peer.refuse_more()

    async def _pause(self) -> bool:
        """Wait for a side or a task; return False if that took too long."""
        client, limits = self._client, self._proxy.limits
        client.expire_in(limits.idle if self._streams else limits.keep_alive)
        # Bytes do not extend the time for a head, as for HTTP/1.1.
        if not self._peer.splitter.in_head:
            self._head_ends = math.inf
        elif self._head_ends == math.inf:
            self._head_ends = trio.current_time() + limits.head
        client.deadline = min(client.deadline, self._head_ends, self._next_reset)
        client.idle = not self._streams
        try:
            await client.pause()
        except Expired:
            if client.dropped:
                raise
            now = trio.current_time()
            if now >= self._next_reset:
                return True
            if self._peer.splitter.in_head:
                reason = format_reason(DenialCode.HEAD_TIMEOUT, seconds=limits.head)
                await self._end_by(Http2Fault(PROTOCOL_ERROR, reason))
            else:
                self._closed_by = "idle"
                self._leave()
                self._peer.flush()
            return False
        finally:
            client.idle = False
        return True

    @property
    def _next_reset(self) -> float:
        return self._ours[0][0] if self._ours else math.inf

    def _reset_unread(self) -> bool:
        """Reset streams whose client has not read an answer of ours in time, as HTTP/1.1 ends such
        a connection; return whether any was. Without it they would hold the session's places."""
        moved, now = False, trio.current_time()
        while self._ours and (self._ours[0][1].is_done or self._ours[0][0] <= now):
            _, stream = self._ours.popleft()
            moved = moved or not stream.is_done
            self._finish(stream, CANCEL)
        return moved

    async def _end_by(self, fault: Http2Fault) -> None:
        """Record what the client broke, and end the connection."""
        self._closed_by = "error"
        self._peer.refuse_more(fault.code)
        request = BadRequest(400, fault.reason)
        with suppress(AuditBusy):
            await self._record(self._authorizer.malformed(_ANY_REQUEST, request))
        await self._client.drain(self._proxy.limits.linger, self._peer.take_unsent())

    # -- the client's frames ----------------------------------------------------------------------

    def _receive(self) -> bool:
        """Take in the next frames; return whether any came. Raises Http2Fault, SideFailed."""
        if any(one.peer.unsent > MAX_UNSENT for one in self._upstreams.all):
            return False
        events = self._peer.receive(trio.current_time())
        for event in events or ():
            self._take(event)
        return events is not None

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._open(event)
        elif isinstance(event, DataReceived):
            self._take_data(event)
        elif isinstance(event, TrailersReceived):
            self._take_trailers(event)
        elif isinstance(event, StreamEnded):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.up.has_ended = True
                if stream.up.is_too_short and not stream.is_refused:
                    self._refuse_late(stream, TOO_SHORT)
        elif isinstance(event, StreamReset):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.closed_by = "client"
                self._finish(stream, None)

    def _open(self, event: RequestReceived) -> None:
        stream = Http2Stream(event.stream_id, self._proxy.buffer)
        if self._is_leaving or len(self._streams) >= MAX_OPEN:
            self._peer.refuse_stream(stream.number)
            return
        self._streams[stream.number] = stream
        self._turns.append(stream)
        self._state.open_streams += 1
        stream.up.has_ended = event.stream_ended is not None
        decision = self._decide(stream, event.headers)
        stream.is_refused = decision.refusal is not None
        self._nursery.start_soon(self._run, stream, decision)

    def _decide(self, stream: Http2Stream, fields: list[Field]) -> Decision:
        """Decide about a request as about one of HTTP/1.1, and make what goes out."""
        has_ended = stream.up.has_ended
        try:
            raw = request_bytes(fields, self._port, ended=has_ended)
            request, decision, _ = self._authorizer.authorize(raw, b"")
        except BadRequest as fault:
            return self._authorizer.malformed(_ANY_REQUEST, fault)
        if isinstance(request, ConnectRequest):
            raise AssertionError("a CONNECT has no path")  # noqa: TRY004
        stream.take_request(request, is_judged=decision.is_judged)
        if decision.refusal is not None:  # what policy refuses is never a lack of room
            return decision
        if has_ended and request.head.length:
            return decision.refused(Refusal(400, TOO_SHORT))
        if self._state.open_streams > MAX_STREAMS or self._proxy.buffer.held >= MAX_HELD:
            return decision.refused(FULL)
        head, target = request.head, request.target
        stream.fields = [
            (b":method", head.method.encode("ascii")),
            (b":scheme", b"https"),
            (b":authority", target.authority),
            (b":path", target.path),
            *outgoing_fields(fields, expects=head.expects_continue),
        ]
        return self._proxy.route(decision)

    def _take_data(self, event: DataReceived) -> None:
        self._peer.return_window(event.flow_controlled_length)
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_refused:
            return
        padding = event.flow_controlled_length - len(event.data)
        if padding:
            self._peer.return_stream_window(stream.number, padding)
        if not event.data:
            return
        stream.up.add(event.data)
        if stream.up.is_too_long:
            self._refuse_late(stream, "the body is longer than its content-length")
        elif stream.hidden is not None and stream.hidden.is_in(event.data):
            self._refuse_late(stream, REASON)

    def _take_trailers(self, event: TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_refused:
            return
        fields: list[Field] = [(bytes(name), bytes(value)) for name, value in event.headers]
        try:
            check_trailers(fields)
        except FieldFault as fault:
            self._refuse_late(stream, fault.reason)
            return
        if any(is_override_field(name) for name, _ in fields):
            self._refuse_late(stream, "a trailer may replace the method or path that rules judge")
            return
        stream.up.trailers = fields

    # -- the life of a request, beside the task that moves the bytes ------------------------------

    async def _run(self, stream: Http2Stream, decision: Decision) -> None:
        stream.decision = decision
        try:
            stream.recorded = await self._record(decision)
            if stream.is_done:
                return
            if decision.refusal is not None:
                self._answer(stream, decision.refusal)
            elif stream.late_reason:
                await self._refuse(stream, Refusal(400, stream.late_reason))
            elif not stream.is_refused:
                one = await self._upstreams.find(stream.recorded)
                if stream.may_go_out:
                    stream.upstream = one
                    one.waiting.append(stream)
        except UpstreamError as found:
            await self._refuse(stream, found.refusal)
        except AuditBusy:
            self._answer(stream, BUSY)
        except Exception as error:  # the other task raises it
            self._failure = error
        finally:
            self._client.tcp.waker.wake()

    def _refuse_late(self, stream: Http2Stream, reason: str) -> None:
        """Refuse a request whose body or trailers turn out to be bad. The server sees no end."""
        stream.is_refused = True
        stream.closed_by = "client"
        stream.up.drop()
        self._detach(stream)
        if stream.recorded is None:  # the first decision comes first in the log
            stream.late_reason = reason
        else:
            self._nursery.start_soon(self._refuse, stream, Refusal(400, reason))

    def _fail(self, stream: Http2Stream, reason: str) -> None:
        """The server gave no answer that can be passed on: record that, then answer with a 502. An
        answer that has begun is reset, and the flow alone says so."""
        stream.closed_by = "upstream"
        if stream.is_answered:
            self._finish(stream, INTERNAL_ERROR)
            return
        stream.is_refused = True
        stream.drop()
        self._detach(stream)
        refusal = Refusal(502, reason, category="upstream_connect_failed")
        self._nursery.start_soon(self._refuse, stream, refusal)

    async def _refuse(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Record a second decision, then answer it."""
        decision = stream.decision
        try:
            if decision is not None:
                await self._record(decision.refused(refusal))
            if stream.is_done:
                return
            if stream.is_answered:
                self._finish(stream, PROTOCOL_ERROR)
            else:
                self._answer(stream, refusal)
        except AuditBusy:
            self._answer(stream, BUSY)
        except Exception as error:  # the other task raises it
            self._failure = error
        finally:
            self._client.tcp.waker.wake()

    def _answer(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Answer a stream ourselves; what still comes of its request is thrown away."""
        if stream.is_done:
            return
        if stream.is_answered:
            self._finish(stream, INTERNAL_ERROR)
            return
        self._detach(stream)
        stream.drop()
        stream.is_answered = stream.is_refused = True
        text = refusal_text(refusal.reason, refusal.hint).encode("ascii")
        head: list[Field] = [
            (b":status", b"%d" % refusal.status),
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(text)),
        ]
        down, is_head = stream.down, stream.method == "HEAD"
        self._peer.send_head(stream.number, head, ended=is_head)
        down.length, down.trailers, down.has_ended, down.is_sent = None, None, True, is_head
        if is_head:
            self._finish(stream, NO_ERROR)
        else:
            down.add(text)
            self._ours.append((trio.current_time() + self._proxy.limits.linger, stream))

    # -- the server's frames, and bodies ----------------------------------------------------------

    def _serve_upstream(self, one: UpstreamPeer) -> bool:
        moved = self._start_waiting(one)
        try:
            events = None
            if self._peer.unsent <= MAX_UNSENT:
                events = one.peer.receive(trio.current_time())
            for event in events or ():
                self._responses.take(one, event)
        except Http2Fault as fault:
            self._lose(one, f"the upstream's answer is malformed: {fault.reason}")
            return True
        except SideFailed as failure:
            self._lose(one, unanswered(failure))
            return True
        going = one.peer.splitter.going
        if one.peer.has_ended:
            self._lose(one, "the upstream closed the connection without an answer")
        elif going is not None:
            for number in [number for number in one.streams if number > going]:
                self._turn_back(one.streams[number])
            self._turn_back_waiting(one)
            if not one.streams:
                self._forget_upstream(one)
        return moved or events is not None

    def _start_waiting(self, one: UpstreamPeer) -> bool:
        """Send the heads of requests that wait, while the server takes more streams."""
        moved = False
        while one.waiting and one.peer.has_room:
            stream = one.waiting.popleft()
            if not stream.may_go_out or stream.recorded is None:
                continue
            up = stream.up
            ended = up.has_ended and not up.held and up.trailers is None
            number = one.peer.open_stream(stream.fields, ended=ended)
            if number is None:  # after 2**30 requests
                one.is_left = True
                self._turn_back(stream)
                continue
            up.is_sent = ended
            stream.upstream_number = number
            one.streams[number] = stream
            stream.sent = size(stream.fields)
            stream.start = self._start_flow(one.upstream, stream.recorded)
            moved = True
        return moved

    def _move_bodies(self) -> bool:
        """Move a body frame of each stream, both ways; return whether any moved."""
        moved = False
        self._turns.rotate(-1)  # each one is the first some time
        for stream in [*self._turns]:
            if stream.is_done:
                continue
            one = stream.upstream
            if one is not None and stream.upstream_number and not stream.is_refused:
                up = self._responses.send_body(
                    stream.up, one.peer, stream.upstream_number, self._peer, stream.number
                )
                moved = up or moved
            if stream.is_answered:
                moved = self._responses.send_down(stream) or moved
                if stream.down.is_sent:
                    self._finish(stream, NO_ERROR)
        return moved

    def _flush(self) -> bool:
        moved = self._peer.flush()
        for one in [*self._upstreams.all]:
            try:
                moved = one.peer.flush() or moved
            except SideFailed as failure:
                self._lose(one, unanswered(failure))
                moved = True
        return moved

    # -- ends -------------------------------------------------------------------------------------

    def _turn_back(self, stream: Http2Stream) -> None:
        """The server has not begun with it, so the client may send it again (RFC 9113 8.7)."""
        stream.closed_by = "upstream"
        self._finish(stream, REFUSED_STREAM)

    def _turn_back_waiting(self, one: UpstreamPeer) -> None:
        while one.waiting:
            stream = one.waiting.popleft()
            if not stream.is_done:
                self._turn_back(stream)

    def _lose(self, one: UpstreamPeer, reason: str) -> None:
        """A connection to the server has failed, or ended."""
        self._turn_back_waiting(one)
        for stream in [*one.streams.values()]:
            if stream.down.has_ended:  # it waits for the client alone
                stream.closed_by = "upstream"
                stream.up.is_sent = True
                self._detach(stream)
            else:
                self._fail(stream, reason)
        self._forget_upstream(one)

    def _forget_upstream(self, one: UpstreamPeer) -> None:
        self._upstreams.all.remove(one)
        one.peer.transport.close()

    def _detach(self, stream: Http2Stream) -> None:
        """End the stream at the server, if it has not ended there."""
        one, number = stream.upstream, stream.upstream_number
        if one is None:
            return
        stream.upstream = None
        was_open = bool(number) and one.streams.pop(number, None) is not None
        if was_open and not (stream.up.is_sent and stream.down.has_ended):
            one.peer.reset_stream(number, CANCEL)

    def _finish(self, stream: Http2Stream, code: int | None) -> None:
        """End a stream. `code` resets it at the client unless it is complete there; None if the
        client has reset it."""
        if stream.is_done:
            return
        is_complete = stream.down.is_sent and stream.up.has_ended
        if code is not None and not (code == NO_ERROR and is_complete):
            self._peer.reset_stream(stream.number, code)
        self._detach(stream)
        stream.is_done = True
        stream.drop()
        self._responses.forget(stream)
        self._streams.pop(stream.number, None)
        self._turns.remove(stream)
        self._state.open_streams -= 1
        if stream.start is not None:
            self._proxy.recorder.record_flow(self._responses.flow(stream, stream.start))

    def _end_all(self) -> None:
        is_cut = trio.current_effective_deadline() == -math.inf
        for stream in [*self._streams.values()]:
            stream.closed_by = "shutdown" if is_cut else self._closed_by
            self._finish(stream, CANCEL)
        for one in [*self._upstreams.all]:
            self._forget_upstream(one)
