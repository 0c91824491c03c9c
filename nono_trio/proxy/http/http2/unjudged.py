"""Requests whose bodies MCP rules judge: they wait here, whole, before anything is recorded.

Rules of this file:
- A body has one deadline, which more bytes do not extend, and room for MAX_BODY bytes, which its
  window lets in. The server is not asked while it waits.
- A body that is cut off was an attempt too, so it is recorded.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import TYPE_CHECKING

from nono_trio.core.http.mcp_message import MAX_BODY, BadMessage, cut_off, too_late, too_long
from nono_trio.proxy.access.authorizer import judged_messages, unreadable
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
        if stream.request is not None and stream.request.head.length > MAX_BODY:
            self.refuse(stream, too_long())
        elif stream.up.has_ended:
            self.judge(stream)
        else:
            self._client.return_stream_window(stream.number, MAX_BODY + 1 - WINDOW)
            if stream.request is not None and stream.request.head.expects_continue:
                self._client.send_head(stream.number, [(b":status", b"100")])

    def __contains__(self, stream: Http2Stream) -> bool:
        return stream in self._waiting

    def check(self, stream: Http2Stream) -> None:
        """Refuse a body that has become too long."""
        if stream.up.held > MAX_BODY:
            self.refuse(stream, too_long())

    def judge(self, stream: Http2Stream) -> None:
        """Decide about the messages of a body that is whole."""
        (_, decision), request = self._waiting.pop(stream), stream.request
        if request is None:
            raise AssertionError("a stream that waits has a request")
        first, *others = judged_messages(request, decision, b"".join(stream.up.pieces))
        self._lifecycle.start(stream, first, others)

    def refuse(self, stream: Http2Stream, fault: BadMessage) -> None:
        """Refuse a body that can't be read."""
        stream.up.drop()
        _, decision = self._waiting.pop(stream)
        self._lifecycle.start(stream, unreadable(decision, fault))

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
            yield unreadable(decision, cut_off())
