"""Writes the events of one message as bytes of HTTP/1.1.

Rules of this file: the framing and the Connection field of what goes out are written here alone,
so that no byte of the other side's framing passes. Only `MessageEnded` ends a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.http.field_block import WrittenFields, written_lines
from nono_trio.core.http.message import BodyData, MessageEnded, RequestStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.message import MessageEvent

_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"

CLOSE: Final = (b"Connection", b"close")


class MessageWriter:
    """Writes one message. `chunked`: its body is sent in chunks. `connection` are the fields about
    the connection itself, such as CLOSE."""

    __slots__ = ("_chunked", "_connection")

    def __init__(self, *, chunked: bool = False, connection: Sequence[Field] = ()) -> None:
        self._chunked = chunked
        self._connection = connection

    def write(self, event: MessageEvent) -> bytes:
        """Return the bytes of an event; b"" if HTTP/1.1 writes nothing for it."""
        # isinstance takes ten times as long for a Struct, and this runs for each piece of a body
        if type(event) is BodyData:
            return self.write_data(event.data)
        if type(event) is MessageEnded:
            return self.write_end(event.trailers)
        fields = event.fields
        own = _CHUNKED if self._chunked else b""
        if self._connection:
            own += written_lines(self._connection)
        lines = fields.lines if type(fields) is WrittenFields else written_lines(fields)
        if type(event) is RequestStarted:
            return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (
                event.method,
                event.target,
                event.authority,
                lines,
                own,
            )
        return b"HTTP/1.1 %d%b\r\n%b%b\r\n" % (event.status, event.reason, lines, own)

    def write_data(self, data: bytes) -> bytes:
        """Return the bytes of a `BodyData` without making one."""
        # no chunk without data: it would end the body
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    def write_end(self, trailers: tuple[Field, ...] = ()) -> bytes:
        """Return the bytes of a `MessageEnded` without making one."""
        return _end(trailers) if self._chunked else b""


UNFRAMED: Final = MessageWriter()
"""Writes a message with a length or without a body, on a connection that stays open. So are nearly
all, and it has no state."""


def _end(trailers: tuple[Field, ...]) -> bytes:
    if not trailers:
        return _LAST_CHUNK
    return b"\r\n".join([b"0", *(b"%b: %b" % field for field in trailers), b"", b""])
