"""One HTTP/2 connection: h2 over a transport, with bounds on what is read, held and sent.

Rules of this file:
- The library h2 has the states of streams, HPACK and the windows. core/http/http2_frames.py sees
  each frame before it does.
- The connection's window is given back as bytes arrive, a stream's only once they were sent on. So
  a stream that is not read holds its own window and stops no other stream.
- Nothing is read while MAX_UNSENT bytes wait for the peer: it could have us answer without end.
- Heads are checked in core/http/http2_head.py, and h2's own checks are off: h2 ends the whole
  connection for a fault of one stream. The same is true of lengths of bodies.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamReset
from h2.exceptions import NoAvailableStreamIDError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream
from hpack import NeverIndexedHeaderTuple

from nono_trio.core.http.http2_frames import (
    BATCH,
    DATA,
    HEADERS,
    NO_ERROR,
    REFUSED_STREAM,
    FrameSplitter,
    Http2Fault,
    goaway,
)
from nono_trio.core.http.http2_head import CONNECTION_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from h2.events import Event

    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.transport.transport import Transport

READ: Final = 32 * 1024  # bytes of one read; 3,600 frames at most, which are taken in batches
PIECE: Final = 16 * 1024  # bytes of one body frame: what a stream sends before others get a turn
MAX_QUEUED: Final = 64 * 1024  # bytes that wait for the socket before another body frame is made
MAX_UNSENT: Final = 256 * 1024
MAX_OPEN: Final = 100  # streams; RFC 9113 6.5.2 asks for no less
WINDOW: Final = 65535  # bytes; a stream begins with it, as the peer assumes before our settings
GROWN_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
GIVE_BACK: Final = 16 * 1024  # bytes of a window before it is given back
MAX_REQUEST: Final = 32 * 1024  # bytes of a head; as for HTTP/1.1
MAX_RESPONSE: Final = 64 * 1024
SHORT_COOKIE: Final = 20  # bytes; a shorter one can be guessed by trying (RFC 7541 7.1.3)
TABLE: Final = 4096  # bytes of names and values that our encoder remembers
_SECRET: Final = frozenset({b"authorization", b"proxy-authorization"})
_COOKIE: Final = b"cookie"
_UNUSUAL: Final = CONNECTION_FIELDS | _SECRET | {_COOKIE}

# hpack logs each field, secrets too: no user may switch that on, and each call costs.
for _name in ("hpack.hpack", "hpack.table"):
    logging.getLogger(_name).disabled = True


class _Connection(H2Connection):  # type: ignore[misc, unused-ignore]
    MAX_CLOSED_STREAMS = 4096  # instead of 65,536
    spend: Callable[[], None]

    def _receive_frame(self, frame: Any) -> list[Event]:  # noqa: ANN401
        events: list[Event] = super()._receive_frame(frame)
        # h2 answers with a reset if the stream is not open, and has no event but that reset's.
        if frame.type in (DATA, HEADERS) and all(isinstance(one, StreamReset) for one in events):
            self.spend()
        return events

    def _begin_new_stream(self, *arguments: Any, **named: Any) -> H2Stream:  # noqa: ANN401
        stream = super()._begin_new_stream(*arguments, **named)
        stream.__class__ = _Stream
        return stream


class _Stream(H2Stream):  # type: ignore[misc, unused-ignore]
    def _initialize_content_length(self, headers: Iterable[object]) -> None:
        """Leave lengths of bodies to us: h2 refuses those of 304, and forgets them at trailers."""

    def receive_headers(self, headers: Any, *others: Any) -> Any:  # noqa: ANN401
        """For a stream that was reset, h2 drops a head that was on its way; but for an interim one
        it ends the whole connection. So it gets the head of a closed stream without its status."""
        return super().receive_headers(() if self.closed else headers, *others)


def _normalized(fields: list[Field]) -> list[Field]:
    """As h2 would send the fields (RFC 9113 8.2), in one pass instead of four: names in lower case,
    none about the connection, and secrets in no table, where they could be guessed."""
    normalized: list[Field] = []
    for name, value in fields:
        field = name, value = name.lower(), value.strip()
        if name not in _UNUSUAL:
            normalized.append(field)
        elif name in _SECRET or (name == _COOKIE and len(value) < SHORT_COOKIE):
            normalized.append(NeverIndexedHeaderTuple(name, value))
        elif name == _COOKIE:
            normalized.append(field)
    return normalized


class Http2Peer:
    """The other end of one connection. `is_client`: it is a client, and we are its server."""

    def __init__(self, transport: Transport, *, is_client: bool) -> None:
        most = MAX_REQUEST if is_client else MAX_RESPONSE
        self.transport = transport
        self.splitter = FrameSplitter(is_client=is_client, max_block=most)
        self.has_ended = False
        """The peer has ended its direction."""
        self.has_settings = False
        self.is_leaving = False
        """GOAWAY was sent, so no stream is served that is new."""
        self._out = b""
        self._unreturned = 0
        self._is_client = is_client
        config = H2Configuration(
            client_side=not is_client,
            header_encoding=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
            validate_outbound_headers=False,
        )
        self._h2 = _Connection(config)
        self._h2.spend = self.splitter.spend
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_OPEN,
            SettingCodes.MAX_HEADER_LIST_SIZE: most,
        }
        if not is_client:
            values[SettingCodes.ENABLE_PUSH] = 0
        self._h2.local_settings = Settings(client=not is_client, initial_values=values)
        self._h2.decoder.max_header_list_size = most
        self._h2.initiate_connection()
        # A client may open more before it knows our settings. h2 would end the connection, so it
        # takes one batch more than was announced, and `refuse_stream` hands those back.
        self._h2.local_settings.max_concurrent_streams = MAX_OPEN + BATCH
        self._h2.local_settings.acknowledge()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - WINDOW)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket."""
        return len(self._out)

    @property
    def may_queue(self) -> bool:
        """True if a body frame may be made."""
        return len(self._out) < MAX_QUEUED

    @property
    def is_going(self) -> bool:
        """True if the peer takes no other stream."""
        return self.has_ended or self.splitter.going is not None

    @property
    def has_room(self) -> bool:
        """True if the peer takes another stream now."""
        if not self.has_settings or self.is_going:
            return False
        return self._h2.open_outbound_streams < self._h2.remote_settings.max_concurrent_streams

    def receive(self, now: float) -> list[Event] | None:
        """Return the events of the next frames, or None if nothing has come, or if too much waits
        for the peer. `has_ended` is set at the end. Raises Http2Fault, SideFailed."""
        if len(self._out) > MAX_UNSENT:
            return None
        data = self.splitter.take(now)
        if not data:
            if self.has_ended or not self.transport.readable:
                return None
            raw = self.transport.try_receive(READ)
            if not raw:
                self.has_ended = raw == b""
                return [] if self.has_ended else None
            self.splitter.add(raw)
            data = self.splitter.take(now)
        if not data:
            return []
        try:
            return self._h2.receive_data(data)
        except ProtocolError as error:
            code = int(error.error_code)
            name = getattr(error.error_code, "name", str(code))
            raise Http2Fault(code, f"the rules of HTTP/2 are broken ({name})") from None
        finally:
            table = self._h2.encoder
            if table.header_table_size > TABLE:  # the peer would have us remember without end
                table.header_table_size = TABLE

    def return_window(self, count: int) -> None:
        """Give back `count` bytes of the connection's window."""
        self._unreturned += count
        if self._unreturned >= GIVE_BACK:
            self._h2.increment_flow_control_window(self._unreturned)
            self._unreturned = 0

    def return_stream_window(self, stream: int, count: int) -> None:
        """Give back `count` bytes of a stream's window."""
        try:
            self._h2.increment_flow_control_window(count, stream)
        except (ProtocolError, KeyError):
            return  # it is closed, so nothing more comes

    def open_stream(self, fields: list[Field], *, ended: bool) -> int | None:
        """Send a request's head; return its stream id, or None if there are no more ids."""
        try:
            stream = self._h2.get_next_available_stream_id()
        except NoAvailableStreamIDError:
            return None
        self._h2.send_headers(stream, _normalized(fields), end_stream=ended)
        self.splitter.may_be_reset()
        return stream

    def send_head(self, stream: int, fields: list[Field], *, ended: bool = False) -> None:
        """Send a response's head, or trailers. A closed stream gets nothing."""
        try:
            self._h2.send_headers(stream, _normalized(fields), end_stream=ended)
        except (StreamClosedError, ProtocolError):
            return

    def room(self, stream: int) -> int:
        """The bytes of a body frame that the windows let us send now."""
        try:
            return min(self._h2.local_flow_control_window(stream), PIECE)
        except (StreamClosedError, ProtocolError):
            return 0

    def send_body(self, stream: int, data: bytes, *, ended: bool) -> None:
        """Send a body frame that fits `room`."""
        try:
            self._h2.send_data(stream, data, end_stream=ended)
        except (StreamClosedError, ProtocolError):
            return
        self.splitter.earn()
        self._collect()

    def reset_stream(self, stream: int, code: int) -> None:
        """Reset a stream, if it is open."""
        try:
            self._h2.reset_stream(stream, code)
        except (StreamClosedError, ProtocolError):
            return

    def refuse_stream(self, stream: int) -> None:
        """Hand a stream back, which its client may open again (RFC 9113 8.7). Raises Http2Fault."""
        self.reset_stream(stream, REFUSED_STREAM)
        self.splitter.spend()

    def refuse_more(self, code: int = NO_ERROR) -> None:
        """Send GOAWAY: no stream is served that opens after this. Open ones go on."""
        self.is_leaving = True
        last = self._h2.highest_inbound_stream_id
        self._collect()
        self._out += goaway(last, code)

    def flush(self) -> bool:
        """Send what waits; return True if anything was sent. Raises SideFailed."""
        self._collect()
        if not self._out:
            return False
        sent = self.transport.try_send(self._out)
        self._out = self._out[sent:]
        return sent > 0

    def take_unsent(self) -> bytes:
        """Return the bytes that wait, for the caller to send."""
        self._collect()
        unsent, self._out = self._out, b""
        return unsent

    def _collect(self) -> None:
        self._out += self._h2.data_to_send()
