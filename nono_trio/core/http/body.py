"""Reads message bodies.

The head of a message says how its body is framed: by a length, in chunks, or by the end of the
connection. Chunk extensions are dropped here, which RFC 9112 7.1.1 allows.

Rules of this file: data is returned piece by piece and never gathered. A body of a known length is
not copied. Our guard checks chunks and h11 reads them; both must find the same end and trailers.
Plain chunks that came whole are read by the guard alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import h11

from nono_trio.core.http.chunked import MAX_PLAIN, BadBody, ChunkGuard

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field

# h11 has no public chunk reader, so it gets the head of a request with a chunked body first
_PRIMER: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Body(Protocol):
    """An incoming body. `done` is True once its end was read; `trailers` are complete then."""

    done: bool
    trailers: tuple[Field, ...]

    def read(self, raw: bytes) -> tuple[bytes, int]:
        """Return the data in `raw`, and how many of its bytes were used. The caller must pass the
        other bytes again; once `done`, they belong to the next message. Raises BadBody."""
        ...


class LengthBody:
    """A body of a known size in bytes; 0 for none."""

    trailers: tuple[Field, ...] = ()

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def read(self, raw: bytes) -> tuple[bytes, int]:
        """As `Body.read`; never raises."""
        taken = min(len(raw), self._left)
        self._left -= taken
        self.done = self._left == 0
        return raw[:taken], taken


class EndlessBody:
    """A response body that ends with its connection (RFC 9112 6.3, rule 8); never `done`."""

    trailers: tuple[Field, ...] = ()

    def __init__(self) -> None:
        self.done = False

    def read(self, raw: bytes) -> tuple[bytes, int]:
        """As `Body.read`; never raises."""
        return raw, len(raw)


class ChunkedBody:
    """A chunked body."""

    def __init__(self, guard: ChunkGuard | None = None) -> None:
        self.done = False
        self.trailers: tuple[Field, ...] = ()
        self._guard = guard or ChunkGuard()
        self._h11: h11.Connection | None = None

    def read(self, raw: bytes) -> tuple[bytes, int]:
        """As `Body.read`."""
        pieces, plain = self._guard.take_plain(raw)
        if plain == len(raw) or len(pieces) >= MAX_PLAIN:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces), plain
        rest = raw[plain:]
        taken = self._guard.take(rest)
        connection = self._reader()
        if taken:  # h11 takes b"" for the end of the connection
            connection.receive_data(rest[:taken])
        try:
            while isinstance(event := connection.next_event(), h11.Data):
                pieces.append(event.data)
        except h11.RemoteProtocolError as error:
            raise BadBody("the chunked body is malformed") from error
        if isinstance(event, h11.EndOfMessage):
            self._take_end(event)
        if self.done != self._guard.done:
            raise BadBody("the chunked body can be read in two ways")
        return b"".join(pieces), plain + taken

    def _take_end(self, event: h11.EndOfMessage) -> None:
        self.done = True
        self.trailers = tuple(self._guard.trailers)
        if self.trailers or event.headers:
            ours = [(name.lower(), value) for name, value in self.trailers]
            if ours != [(bytes(name), bytes(value)) for name, value in event.headers]:
                raise BadBody("the trailers can be read in two ways")

    def _reader(self) -> h11.Connection:
        """h11 between two chunks, or where it has come to. Whole plain chunks pass it by, and they
        begin and end between two chunks."""
        if self._h11 is None:
            self._h11 = h11.Connection(h11.SERVER)
            self._h11.receive_data(_PRIMER)
            self._h11.next_event()
        return self._h11
