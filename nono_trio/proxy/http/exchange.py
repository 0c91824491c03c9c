"""One plain HTTP request and its response, streamed both ways at once.

Rules of this file:
- A response may begin before its request has ended.
- A failure before the first byte of a response is answered with a status. After it the connection
  is cut, because the client would read a second status line as content.
- A client that leaves is not an error.
- A stream that moves much at a time becomes a task: in a step of the dispatcher (steps.py) a
  millisecond of each of many streams would keep all other tasks waiting.
- A body or a WebSocket message with a stand-in that must not be sent cuts the request: the upstream
  sees no end of it. `found` is then the refusal, also if an answer has begun.
"""

from __future__ import annotations

import math
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio
from msgspec import UNSET

from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.response_head import BadResponse
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.decision import Refusal
from nono_trio.proxy.credentials.interfaces import MustNotGoOn
from nono_trio.proxy.http.request_stream import RequestStream
from nono_trio.proxy.http.response_stream import ResponseStream
from nono_trio.proxy.transport.client import Expired
from nono_trio.proxy.transport.transport import SideFailed
from nono_trio.proxy.transport.tunnel import Tunnel
from nono_trio.proxy.upstream.proxy_chain import ProxyRejected
from nono_trio.steps import move_much, turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.log.events import ClosedBy, DenialCategory, Flow
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import FlowStart
    from nono_trio.proxy.connection_handler import Upstream
    from nono_trio.proxy.credentials.body_search import BodySearch, WebSocketSearch
    from nono_trio.proxy.http.gathered_response import GatheredResponse, TakesAnswer
    from nono_trio.proxy.http.rewrite import OutgoingRequest
    from nono_trio.proxy.limits import ProxyLimits
    from nono_trio.proxy.transport.client import Client
    from nono_trio.proxy.transport.relay import RelayBuffer

TURN_PIECES: Final = 4  # pieces of at most 96 KiB or 256 chunks before others get their turn
FAILED: Final[DenialCategory] = "upstream_connect_failed"  # there is no other category for it
REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 9.2.1: the safe ones


class Searches(msgspec.Struct):
    """The searches for stand-ins in a request that is being sent. `note` records that those of some
    credentials pass; nothing more of the request is sent before it returns."""

    body: BodySearch | None
    websocket: WebSocketSearch | None
    note: Callable[[tuple[str, ...]], Awaitable[None]]


class Exchange:
    """One exchange. `closed_by` is "shutdown" until something else has ended it."""

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        request: HttpRequest,
        outgoing: OutgoingRequest,
        searches: Searches | None = None,
        *,
        takes: TakesAnswer | None = None,
    ) -> None:
        """`takes`: the answer is held back until that has changed it."""
        self.closed_by: ClosedBy = "shutdown"
        self.failure: Refusal | None = None
        """The answer to send, if the upstream's answer has not begun. Its record comes first."""
        self.found: Refusal | None = None
        """Why the request was cut: it has what must not be sent. Its record is still to be made."""
        self._searches = searches
        self._tunnel: Tunnel | None = None
        self._client = client
        self._upstream = upstream
        self._is_last = outgoing.is_last
        body = None if searches is None else searches.body
        self.request_stream = RequestStream(client, upstream, request, outgoing, body)
        about = client, upstream, request.head, self.request_stream, outgoing
        self._gathered: GatheredResponse | None = None
        if takes is not None:
            from nono_trio.proxy.http.gathered_response import GatheredResponse  # late: few have it

            self._gathered = GatheredResponse(*about, takes)
        self.response_stream = self._gathered or ResponseStream(*about)

    async def run(self, limits: ProxyLimits, buffer: RelayBuffer) -> None:
        """Stream until the response has ended or something failed; then, if it has begun a
        WebSocket, relay that. Never raises for what a peer does; raises what recording a stand-in
        that may pass raises. If cancelled, both transports are left to the caller."""
        try:
            await self._stream(limits)
            self.closed_by = "upstream"  # its response has ended
        except BadBody as fault:
            self._fail("client", 400, fault.reason)
        except BadResponse as fault:
            self._fail("upstream", 502, fault.reason)
        except ProxyRejected as rejected:
            self.closed_by = "upstream"
            category: DenialCategory = "external_proxy_rejected"
            self.failure = Refusal(502, rejected.reason, rejected.hint, category)
        except SideFailed as failure:
            self._fail(failure.side, 502, unanswered(failure))
        except Expired:
            self._fail("idle", 504, self._lateness(limits))
        except MustNotGoOn as stop:
            self._cut(stop)
        if self.response_stream.switched and self.found is None:
            await self._relay_websocket(limits, buffer)

    def _cut(self, stop: MustNotGoOn) -> None:
        self.closed_by = "error"
        self.found = stop.refusal
        with suppress(OSError):
            self._upstream.transport.reset()

    async def _relay_websocket(self, limits: ProxyLimits, buffer: RelayBuffer) -> None:
        left_over = self.response_stream.left_over
        tunnel = Tunnel(self._client, self._upstream.transport, buffer, left_over)
        self._tunnel = tunnel
        pause = None
        if self._searches is not None and (sieve := self._searches.websocket) is not None:
            tunnel.up.put_through(sieve)
            pause = partial(self._pause_websocket, sieve, limits.idle)
        try:
            await tunnel.carry(limits, b"", pause=pause)
        except MustNotGoOn as stop:
            self._cut(stop)
        finally:
            if self.found is None:
                self.closed_by = tunnel.closed_by

    async def _pause_websocket(self, sieve: WebSocketSearch, seconds: float) -> None:
        """Wait for a side; if a stand-in is to be noted first, note it."""
        if sieve.unrecorded:
            await self._note(sieve.unrecorded)
        else:
            await self._client.pause(seconds)

    async def _note(self, names: list[str]) -> None:
        """Have stand-ins recorded that may pass."""
        if self._searches is not None:
            await self._searches.note(tuple(names))
        names.clear()

    def _lateness(self, limits: ProxyLimits) -> str:
        if self.response_stream.has_open_head:
            return f"the upstream's response head was not complete within {limits.head:g} seconds"
        return f"the upstream was silent for {limits.idle:g} seconds"

    async def _stream(self, limits: ProxyLimits) -> None:
        pieces = 0
        head_ends = math.inf
        request, response = self.request_stream, self.response_stream
        is_sent = False
        while not response.done:
            moved = not is_sent and request.pump()
            if not is_sent and request.complete:  # so it has nothing more to move
                is_sent, moved = True, False
            moved = response.pump() or moved
            is_held = self._gathered is not None
            if is_sent and not is_held and response.status is not None and not response.ended:
                await self._stream_body(limits)
                return
            if moved:
                pieces += 1
                if pieces % TURN_PIECES == 0:
                    await move_much()
                    await turn()
                continue
            if self._gathered is not None and self._gathered.is_held:
                await self._gathered.release()
                continue
            if self._client.transport.broken:
                raise SideFailed("client")
            if self._searches is not None and (body := self._searches.body) and body.unrecorded:
                await self._note(body.unrecorded)
                continue
            # Bytes do not extend the time for a head: one byte a minute would hold it open.
            if not response.has_open_head:
                head_ends = math.inf
                await self._client.pause(limits.idle)
                continue
            if head_ends == math.inf:
                head_ends = trio.current_time() + limits.head
            self._client.expire_in(limits.idle)
            self._client.deadline = min(self._client.deadline, head_ends)
            await self._client.pause()

    async def _stream_body(self, limits: ProxyLimits) -> None:
        """Stream what is left of a response whose head has come, once its request was sent. Each
        event of a language model is one turn of this loop."""
        response, client = self.response_stream, self._client
        pieces = 0
        while not (response.ended and response.done):
            if response.pump():
                pieces += 1
                if pieces % TURN_PIECES == 0:
                    await move_much()
                    await turn()
            elif client.tcp.broken:
                raise SideFailed("client")
            else:
                await client.pause(limits.idle)
                pieces = 0  # nothing more could be read, and others had their turn before more came

    def _fail(self, closed_by: ClosedBy, status: int, reason: str) -> None:
        self.closed_by = closed_by
        if not self.response_stream.answered and (closed_by != "client" or status == 400):
            failed = closed_by != "client"
            self.failure = Refusal(status, reason, category=FAILED if failed else UNSET)

    @property
    def sent(self) -> int:
        """Bytes that went to the upstream."""
        return self.request_stream.sent + (0 if self._tunnel is None else self._tunnel.up.moved)

    @property
    def received(self) -> int:
        """Bytes that came from the upstream."""
        if self._tunnel is None:
            return self.response_stream.received
        head = self.response_stream.received - len(self.response_stream.left_over)
        return head + self._tunnel.down.moved

    def flow(self, start: FlowStart) -> Flow:
        """The line of flows.ndjson, now that the exchange has ended."""
        response = self.response_stream
        status, first_byte = response.status, response.first_byte
        return start.end(
            self.sent,
            self.received,
            self.closed_by,
            UNSET if status is None else status,
            first_byte,
        )

    @property
    def keeps_client(self) -> bool:
        """True if another request may follow on the client's connection."""
        return (
            self.response_stream.keeps_client
            and self.response_stream.done
            and self.request_stream.complete
        )

    @property
    def keeps_upstream(self) -> bool:
        """True if another request may go out on the upstream's connection."""
        return self.keeps_client and self.response_stream.keeps_upstream and not self._is_last

    @property
    def was_stale(self) -> bool:
        """True if the upstream closed before a byte of an answer. It may do so between requests."""
        return self.closed_by == "upstream" and self.response_stream.received == 0


def is_repeatable(head: RequestHead) -> bool:
    """True if a request may be sent twice without a second effect."""
    return head.method in REPEATABLE and head.body == "none"


def may_carry(spare: Upstream, head: RequestHead, *, is_pipelined: bool) -> bool:
    """True if a request may go out on an upstream that was connected before.

    A used one carries only a request that can go out again: the upstream may be closing the
    connection at this moment, and then it is unknown whether it acted on the request. If something
    came from the upstream before the request, that was reported before it. Something that came
    later may be the upstream's end, so the socket is read for a request that can't go out again.
    It is read for a pipelined one too: that may have come long before its turn, and no report of
    the upstream has been fetched since.
    """
    if is_repeatable(head):
        may_have_bytes = is_pipelined or spare.transport.readable
        return not may_have_bytes or spare.transport.is_silent()
    return not spare.used and spare.transport.is_silent()


def unanswered(failure: SideFailed) -> str:
    """Why an upstream gave no answer. In TLS 1.3 it may refuse our certificate, or the want of
    one, after the handshake."""
    error = failure.__cause__
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return "the upstream closed the connection without an answer"
    from nono_trio.proxy.intercept.tls_failures import upstream_failure  # imported with TLS

    return format_reason(DenialCode.TLS_FAILED, detail=upstream_failure(error))
