"""Message bodies: what each kind offers, and those that need no parser.

The head of a message says how its body is framed: by a length, in chunks (core/http/chunked.py), or
by the end of the connection.

Rules of this file: data is returned piece by piece and never gathered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field


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
