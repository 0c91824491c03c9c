"""The life of each stream of one client: its record, its answer, and its end.

Rules of this file:
- A request goes out only after its decision is in the log. It is recorded, and a server dialled, in
  a task beside the one that moves the bytes, so no stream waits for the record of another one.
- A fault that is found later is a second record, and it follows the first.
- A client that leaves takes back no record: what it asked for is recorded, and no more is done.
- A server's failure before its answer is a 502, after it a reset.
- Every stream that went to the server has its flow in the log when it ends, however it ends.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

import trio

from nono_trio.core.http.http2_frames import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
)
from nono_trio.errors import AuditBusy
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.connection_handler import BUSY, UpstreamError
from nono_trio.proxy.credentials.interfaces import MustNotGoOn
from nono_trio.proxy.http.error_response import grpc_refusal, message_error, refusal_text
from nono_trio.proxy.intercept.http2_state import MAX_STREAMS
from nono_trio.proxy.limits import MAX_HELD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.access.decision import Decision, Recorded
    from nono_trio.proxy.connection_handler import ProxyContext
    from nono_trio.proxy.http.http2.bodies import BodyMover
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.http.http2.stream import Http2Stream, UpstreamPeer
    from nono_trio.proxy.http.http2.upstreams import Upstreams


class StreamLifecycle:
    """The open streams of one client. `record` commits a decision to the log; `wake` wakes the task
    that moves the bytes."""

    __slots__ = (
        "_asking",
        "_bodies",
        "_client",
        "_ours",
        "_proxy",
        "_record",
        "_state",
        "_upstreams",
        "_wake",
        "failure",
        "nursery",
        "streams",
        "turns",
    )

    nursery: trio.Nursery
    """Has the tasks of the streams; set before the first stream opens."""

    def __init__(
        self,
        client: Http2Peer,
        proxy_context: ProxyContext,
        upstreams: Upstreams,
        bodies: BodyMover,
        record: Callable[[Decision], Awaitable[Recorded]],
        wake: Callable[[], None],
    ) -> None:
        if proxy_context.interception is None:
            raise AssertionError("nothing is intercepted")
        self._client = client
        self._proxy = proxy_context
        self._state = proxy_context.interception.http2
        self._upstreams = upstreams
        self._bodies = bodies
        self._record = record
        self._wake = wake
        self.streams: dict[int, Http2Stream] = {}
        self.turns: deque[Http2Stream] = deque()
        """The same streams; the first one moves its bodies first."""
        self._ours: dict[Http2Stream, float] = {}
        """Open streams with an answer of ours, and when each is reset; the earliest is first."""
        self._asking: set[trio.CancelScope] = set()
        """Of the tasks that wait for a secret or a connection. The end of all streams cancels them,
        and no task that records."""
        self.failure: Exception | None = None
        """The error that a task of a stream has raised."""

    @property
    def is_full(self) -> bool:
        """True if the session has no place for a stream that was added."""
        return self._state.open_streams > MAX_STREAMS or self._proxy.buffer.held >= MAX_HELD

    @property
    def next_reset(self) -> float:
        """When `reset_unread` has something to do, on the clock of trio."""
        return next(iter(self._ours.values()), math.inf)

    def add(self, stream: Http2Stream) -> None:
        """Take a stream that its client has opened."""
        self.streams[stream.number] = stream
        self.turns.append(stream)
        self._state.open_streams += 1

    def start(
        self, stream: Http2Stream, decision: Decision, others: Sequence[Decision] = ()
    ) -> None:
        """Record what was decided about a stream, then answer it or send it on. `others` are about
        the other messages of its body."""
        stream.decision = decision
        stream.is_refused = decision.refusal is not None
        self.nursery.start_soon(self._run, stream, decision, others)

    async def _run(
        self, stream: Http2Stream, decision: Decision, others: Sequence[Decision]
    ) -> None:
        with self._contained(stream):
            recorded = await self._record(decision)
            for other in others:
                await self._record(other)
            stream.recorded = recorded
            if stream.is_done:
                return
            if decision.refusal is not None:
                self._answer(stream, decision.refusal)
            elif stream.late_refusal is not None:
                await self._refuse(stream, stream.late_refusal)
            elif not stream.is_refused:
                await self._note_found(stream, recorded)
                await self._send_on(stream, recorded)

    async def _send_on(self, stream: Http2Stream, recorded: Recorded) -> None:
        """Give an allowed stream to a connection to the server, or answer with the reason."""
        one = None if stream.needs_secrets else self._upstreams.ready()
        if one is None:
            try:
                one = await self._ask(stream, recorded)
            except (UpstreamError, MustNotGoOn) as found:
                await self._refuse(stream, found.refusal)
                return
        if one is not None and stream.may_go_out:
            stream.upstream = one
            one.waiting.append(stream)

    async def _ask(self, stream: Http2Stream, recorded: Recorded) -> UpstreamPeer | None:
        """Ask for what a stream needs, and return its connection; None at the end of all streams.
        Raises UpstreamError and MustNotGoOn."""
        with trio.CancelScope() as asking:
            self._asking.add(asking)
            try:
                await stream.put_secrets()
                return await self._upstreams.find(recorded)
            finally:
                self._asking.discard(asking)
        return None

    @contextmanager
    def _contained(self, stream: Http2Stream) -> Iterator[None]:
        """Handle the errors of a stream's task: a log that can't keep up is an answer, and the task
        that moves the bytes raises any other one. It is woken at the end."""
        try:
            yield
        except AuditBusy:
            self._answer(stream, BUSY)
        except Exception as error:
            self.failure = error
        finally:
            self._wake()

    def note_found(self, stream: Http2Stream) -> None:
        """Have stand-ins recorded that may pass, before the body that has them goes on."""
        if stream.recorded is not None and not stream.is_noting:
            self.nursery.start_soon(self._note, stream, stream.recorded)

    async def _note(self, stream: Http2Stream, recorded: Recorded) -> None:
        with self._contained(stream):
            await self._note_found(stream, recorded)

    async def _note_found(self, stream: Http2Stream, recorded: Recorded) -> None:
        search = stream.search
        stream.is_noting = True
        while search is not None and (names := (*search.unrecorded,)):
            decision = recorded.decision
            for name in names:
                decision = decision.with_passed_on(name)
            await self._record(decision)
            del search.unrecorded[: len(names)]
        stream.is_noting = False

    def refuse_late(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Refuse a request whose body or trailers turn out to be bad. The server sees no end."""
        stream.is_refused = True
        stream.closed_by = "client"
        stream.up.drop()
        self.detach(stream)
        if stream.recorded is None:  # the first decision comes first in the log
            stream.late_refusal = refusal
        else:
            self.nursery.start_soon(self._refuse, stream, refusal)

    def fail(self, stream: Http2Stream, reason: str) -> None:
        """The server gave no answer that can be passed on: record that, then answer with a 502. An
        answer that has begun is reset, and the flow alone says so."""
        stream.closed_by = "upstream"
        if stream.is_answered:
            self.finish(stream, INTERNAL_ERROR)
            return
        stream.is_refused = True
        stream.drop()
        self.detach(stream)
        refusal = Refusal(502, reason, category="upstream_connect_failed")
        self.nursery.start_soon(self._refuse, stream, refusal)

    async def _refuse(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Record a second decision, then answer it."""
        decision = stream.decision
        with self._contained(stream):
            if decision is not None:
                await self._record(decision.refused(refusal))
            if stream.is_done:
                return
            if stream.is_answered:
                self.finish(stream, PROTOCOL_ERROR)
            else:
                self._answer(stream, refusal)

    def _answer(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Answer a stream ourselves; what still comes of its request is thrown away."""
        if stream.is_done:
            return
        if stream.is_answered:
            self.finish(stream, INTERNAL_ERROR)
            return
        self.detach(stream)
        stream.drop()
        stream.is_answered = stream.is_refused = True
        head, text = _answer_parts(stream, refusal)
        down, is_whole = stream.down, not text
        self._client.send_head(stream.number, head, ended=is_whole)
        down.length, down.trailers, down.has_ended, down.is_sent = None, None, True, is_whole
        if is_whole:
            self.finish(stream, NO_ERROR)
        else:
            down.add(text)
            self._ours[stream] = trio.current_time() + self._proxy.limits.linger

    def reset_unread(self) -> bool:
        """Reset streams whose client has not read an answer of ours in time, as HTTP/1.1 ends such
        a connection; return whether any was. Without it they would hold the session's places."""
        now = trio.current_time()
        late = [*takewhile(lambda stream: self._ours[stream] <= now, self._ours)]
        for stream in late:
            self.finish(stream, CANCEL)
        return bool(late)

    def turn_back(self, stream: Http2Stream) -> None:
        """The server has not begun with it, so the client may send it again (RFC 9113 8.7)."""
        stream.closed_by = "upstream"
        self.finish(stream, REFUSED_STREAM)

    def detach(self, stream: Http2Stream) -> None:
        """End the stream at the server, if it has not ended there."""
        one, number = stream.upstream, stream.upstream_number
        if one is None:
            return
        stream.upstream = None
        if not number and stream in one.waiting:  # else a busy server has us hold it for hours
            one.waiting.remove(stream)
        was_open = bool(number) and one.streams.pop(number, None) is not None
        if was_open and not (stream.up.is_sent and stream.down.has_ended):
            one.peer.reset_stream(number, CANCEL)

    def finish(self, stream: Http2Stream, code: int | None) -> None:
        """End a stream. `code` resets it at the client unless it is complete there; None if the
        client has reset it."""
        if stream.is_done:
            return
        is_complete = stream.down.is_sent and stream.up.has_ended
        if code is not None and not (code == NO_ERROR and is_complete):
            self._client.reset_stream(stream.number, code)
        self.detach(stream)
        stream.is_done = True
        self._ours.pop(stream, None)
        stream.drop()
        self._bodies.forget(stream.up)
        self._bodies.forget(stream.down)
        self.streams.pop(stream.number, None)
        self.turns.remove(stream)
        self._state.open_streams -= 1
        if stream.start is not None:
            self._proxy.recorder.record_flow(stream.flow(stream.start))

    def end_all(self, closed_by: ClosedBy) -> None:
        """End every stream, since the connection has ended. Tasks that still record go on."""
        for stream in [*self.streams.values()]:
            stream.closed_by = closed_by
            self.finish(stream, CANCEL)
        for asking in self._asking:
            asking.cancel(reason="the client's connection has ended")


def _answer_parts(stream: Http2Stream, refusal: Refusal) -> tuple[list[Field], bytes]:
    """The head and the body of an answer of ours."""
    if stream.is_grpc:
        return grpc_refusal(refusal.status, refusal.reason, refusal.hint), b""
    is_head = stream.method == "HEAD"
    status, kind = refusal.status, b"text/plain"
    if refusal.message_id is None or is_head:
        body = refusal_text(refusal.reason, refusal.hint).encode("ascii")
    else:
        status, kind = 200, b"application/json"
        body = message_error(refusal.message_id, refusal.reason, refusal.hint)
    head = [
        (b":status", b"%d" % status),
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
    ]
    return head, b"" if is_head else body
