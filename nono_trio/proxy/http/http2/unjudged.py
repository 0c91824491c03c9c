"""Requests whose bodies are needed whole before anything is recorded: MCP rules judge them, or a
credential's stand-in may have to be swapped in them.

Rules of this file:
- A body has one deadline, which more bytes do not extend, and room for a number of bytes, which its
  window lets in. The server is not asked while it waits. A body that is too long for MCP rules is
  refused. One that is too long for swapping goes on as it comes.
- A body that is cut off was an attempt too, so it is recorded.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import TYPE_CHECKING

from nono_trio.core.http.body import LengthBody
from nono_trio.core.http.mcp_message import MAX_BODY, BadMessage, cut_off, too_late, too_long
from nono_trio.proxy.access.authorizer import judged_messages, unreadable
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.http.http2.peer import WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.http.http2.stream import Http2Stream
    from nono_trio.proxy.http.http2.stream_lifecycle import StreamLifecycle


class UnjudgedStreams:
    """The streams of one client that wait for their bodies; each has `seconds` for it."""

    __slots__ = ("_client", "_lifecycle", "_seconds", "_waiting")

    def __init__(self, client: Http2Peer, lifecycle: StreamLifecycle, seconds: float) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._seconds = seconds
        self._waiting: dict[Http2Stream, tuple[float, Decision]] = {}
        """Until when each may wait, and the decision about its head; the earliest is first."""

    @property
    def next_deadline(self) -> float:
        """When `refuse_late` has something to do, on the clock of trio."""
        return next((ends for ends, _ in self._waiting.values()), math.inf)

    def add(self, stream: Http2Stream, decision: Decision, now: float) -> None:
        """Let a stream wait for its body. `decision` is the one about its head, which allows."""
        self._waiting[stream] = (now + self._seconds, decision)
        if stream.search is not None:
            stream.search.is_late = False
        most = _most(stream, decision)
        if stream.request is not None and stream.request.head.length > most:
            self.refuse(stream, too_long())
        elif stream.up.has_ended:
            self.judge(stream)
        else:
            self._client.return_stream_window(stream.number, most + 1 - WINDOW)
            if stream.request is not None and stream.request.head.expects_continue:
                self._client.send_head(stream.number, [(b":status", b"100")])

    def __contains__(self, stream: Http2Stream) -> bool:
        return stream in self._waiting

    def check(self, stream: Http2Stream) -> None:
        """Refuse a body that has become too long, or let it go on."""
        _, decision = self._waiting[stream]
        if stream.up.held <= _most(stream, decision):
            return
        if decision.messages is not None:
            self.refuse(stream, too_long())
            return
        del self._waiting[stream]
        if stream.search is not None:
            stream.search.is_late = True
        self._lifecycle.start(stream, decision)

    def judge(self, stream: Http2Stream) -> None:
        """Decide about a body that is whole."""
        (_, decision), request = self._waiting.pop(stream), stream.request
        if request is None:
            raise AssertionError("a stream that waits has a request")
        body = b"".join(stream.up.pieces)
        request.body = LengthBody(0)  # nothing of it is left
        others: list[Decision] = []
        if decision.messages is not None:
            decision, *others = judged_messages(request, decision, body)
        else:
            request.carry(body)
        if stream.guard is not None:
            decision = stream.guard.judge_body(request, decision)
            if stream.search is not None:
                for name in stream.search.unrecorded:
                    decision = decision.with_passed_on(name)
                stream.search = None  # all of it was searched
        self._lifecycle.start(stream, decision, () if decision.refusal is not None else others)

    def refuse(self, stream: Http2Stream, fault: BadMessage) -> None:
        """Refuse a body that can't be read."""
        stream.up.drop()
        _, decision = self._waiting.pop(stream)
        self._lifecycle.start(stream, _unread(decision, fault))

    def refuse_with(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Refuse a stream that waits, because of the content of its body."""
        stream.up.drop()
        _, decision = self._waiting.pop(stream)
        self._lifecycle.start(stream, decision.refused(refusal))

    def refuse_late(self, now: float) -> bool:
        """Refuse the streams whose time is over; return whether any was."""
        late = [*takewhile(lambda stream: self._waiting[stream][0] <= now, self._waiting)]
        for stream in late:
            self.refuse(stream, too_late(self._seconds))
        return bool(late)

    def take_cut_off(self) -> Iterator[Decision]:
        """Yield the refusals of the streams that still wait, since the connection has ended."""
        while self._waiting:
            _, (_, decision) = self._waiting.popitem()
            yield _unread(decision, cut_off())


def _most(stream: Http2Stream, decision: Decision) -> int:
    """The bytes of a body that there is room for."""
    if decision.messages is None and stream.guard is not None:
        return stream.guard.max_body
    return MAX_BODY


def _unread(decision: Decision, fault: BadMessage) -> Decision:
    if decision.messages is not None:
        return unreadable(decision, fault)
    return decision.refused(Refusal(fault.status, f"the body {fault.reason}"))
