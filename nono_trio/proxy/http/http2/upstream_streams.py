"""The streams on each connection to the server: when they start there, and how they end with it.

Rules of this file:
- Requests that were decided wait until the server takes another stream.
- Nothing is read from a server while the client has too much that waits for it.
- A server that leaves (GOAWAY) has not begun with the streams after the one it names, so their
  client may send them again. A fault of the connection fails all of its streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from nono_trio.core.http.http2_frames import Http2Fault
from nono_trio.proxy.http.exchange import unanswered
from nono_trio.proxy.http.http2.peer import MAX_UNSENT
from nono_trio.proxy.http.http2.stream import size
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.proxy.access.decision import FlowStart, Recorded
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.http.http2.peer import Http2Peer
    from nono_trio.proxy.http.http2.responses import Responses
    from nono_trio.proxy.http.http2.stream import UpstreamPeer
    from nono_trio.proxy.http.http2.stream_lifecycle import StreamLifecycle
    from nono_trio.proxy.http.http2.upstreams import Upstreams


class UpstreamStreams:
    """Serves the connections of `upstreams` for one client. `start_flow` notes the begin of a
    request's flow."""

    __slots__ = ("_client", "_lifecycle", "_responses", "_start_flow", "_upstreams")

    def __init__(
        self,
        client: Http2Peer,
        upstreams: Upstreams,
        lifecycle: StreamLifecycle,
        responses: Responses,
        start_flow: Callable[[Upstream, Recorded], FlowStart],
    ) -> None:
        self._client = client
        self._upstreams = upstreams
        self._lifecycle = lifecycle
        self._responses = responses
        self._start_flow = start_flow

    @property
    def hold_back(self) -> bool:
        """True if too much waits for a server, so that nothing more is read from the client."""
        return any(one.peer.unsent > MAX_UNSENT for one in self._upstreams.all)

    def serve(self) -> bool:
        """Start what waits, and take the next frames; return whether anything moved."""
        moved = False
        for one in [*self._upstreams.all]:
            moved = self._serve_one(one) or moved
        return moved

    def _serve_one(self, one: UpstreamPeer) -> bool:
        moved = self._start_waiting(one)
        try:
            events = None
            if self._client.unsent <= MAX_UNSENT:
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
                self._lifecycle.turn_back(one.streams[number])
            self._turn_back_waiting(one)
            if not one.streams:
                self._forget(one)
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
                self._lifecycle.turn_back(stream)
                continue
            up.is_sent = ended
            stream.upstream_number = number
            one.streams[number] = stream
            stream.sent = size(stream.fields)
            stream.start = self._start_flow(one.upstream, stream.recorded)
            moved = True
        return moved

    def flush(self) -> bool:
        """Send what waits for the servers; return whether anything was sent."""
        moved = False
        for one in [*self._upstreams.all]:
            try:
                moved = one.peer.flush() or moved
            except SideFailed as failure:
                self._lose(one, unanswered(failure))
                moved = True
        return moved

    def close_all(self) -> None:
        """Close every connection."""
        for one in [*self._upstreams.all]:
            self._forget(one)

    def _turn_back_waiting(self, one: UpstreamPeer) -> None:
        while one.waiting:
            stream = one.waiting.popleft()
            if not stream.is_done:
                self._lifecycle.turn_back(stream)

    def _lose(self, one: UpstreamPeer, reason: str) -> None:
        """A connection to the server has failed, or ended."""
        self._turn_back_waiting(one)
        for stream in [*one.streams.values()]:
            if stream.down.has_ended:  # it waits for the client alone
                stream.closed_by = "upstream"
                stream.up.is_sent = True
                self._lifecycle.detach(stream)
            else:
                self._lifecycle.fail(stream, reason)
        self._forget(one)

    def _forget(self, one: UpstreamPeer) -> None:
        self._upstreams.all.remove(one)
        one.peer.transport.close()
