"""What was accepted as the head of a message, as a value."""

from __future__ import annotations

from typing import Literal

import msgspec

from nono_trio.core.http.bad_request import shown_target

Field = tuple[bytes, bytes]


class RequestHead(msgspec.Struct, frozen=True):
    """One accepted request head. `fields` keep their order; names are lower-case.

    `body` says how a body is framed, `length` is its size in bytes for "length" (else 0).
    `raw` holds the head's exact bytes with the blank line. Head and fields carry the token, so
    neither is ever logged and `repr` shows neither.
    """

    method: str
    target: str
    version: Literal["1.0", "1.1"]
    fields: tuple[Field, ...]
    raw: bytes
    body: Literal["none", "length", "chunked"] = "none"
    length: int = 0
    expects_continue: bool = False
    keep_alive: bool = True

    def first(self, name: bytes) -> bytes | None:
        """Value of the first field of that lower-case name, or None."""
        return next((value for field, value in self.fields if field == name), None)

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {shown_target(self.target.encode('latin-1'))})"
