"""A message as values: the accepted head of a request, and the parts of any message as events.

A message is one head (`RequestStarted` or `ResponseStarted`), any number of `BodyData`, and one
`MessageEnded`. Each event carries the id of its stream, so that HTTP/2 can carry many at once;
HTTP/1.1 has one exchange at a time. Framing is no part of an event: http1.py writes it.

None of these values can be part of a reference cycle, so the garbage collector does not track them
(gc=False): many are made for each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import msgspec

from nono_trio.core.http.bad_request import shown_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.field_block import FieldBlock
    from nono_trio.core.http.header_fields import Field

HTTP1_STREAM: Final = 1  # the stream id of every HTTP/1.1 exchange


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """One accepted request head.

    `body` says how a body is framed, `length` is its size in bytes for "length" (else 0).
    `raw` holds the head's exact bytes with the blank line. Head and fields carry the token, so
    neither is ever logged and `repr` shows neither.
    """

    method: str
    target: str
    version: Literal["1.0", "1.1"]
    block: FieldBlock
    raw: bytes
    body: Literal["none", "length", "chunked"] = "none"
    length: int = 0
    expects_continue: bool = False
    keep_alive: bool = True

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields in their order, with lower-case names."""
        return self.block.fields

    def first(self, name: bytes) -> bytes | None:
        """Value of the first field of that lower-case name, or None."""
        if name not in self.block.names:
            return None
        for field, value in self.block.fields:
            if field == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {shown_target(self.target.encode('latin-1'))})"


@final
class RequestStarted(msgspec.Struct, frozen=True, gc=False):
    """The head of a request as it goes out. `authority` is what HTTP/1.1 sends as Host; `fields`
    are end-to-end fields. They may carry credentials, so `repr` does not show them."""

    stream_id: int
    method: bytes
    target: bytes
    authority: bytes
    fields: Sequence[Field]

    def __repr__(self) -> str:
        return f"RequestStarted({self.stream_id} {self.method!r})"


@final
class ResponseStarted(msgspec.Struct, frozen=True, gc=False):
    """The head of a response, final or interim. `reason` begins with its space. `fields` are
    end-to-end fields. They may carry cookies, so `repr` does not show them."""

    stream_id: int
    status: int
    reason: bytes
    fields: Sequence[Field]

    def __repr__(self) -> str:
        return f"ResponseStarted({self.stream_id} {self.status})"


@final
class BodyData(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a body, without framing; at least one."""

    stream_id: int
    data: bytes


@final
class MessageEnded(msgspec.Struct, frozen=True, gc=False):
    """The end of a message, and its trailers, which follow a chunked body only."""

    stream_id: int
    trailers: tuple[Field, ...] = ()


MessageEvent: TypeAlias = RequestStarted | ResponseStarted | BodyData | MessageEnded


def body_events(
    stream_id: int, data: bytes, *, ended: bool, trailers: tuple[Field, ...] = ()
) -> tuple[BodyData | MessageEnded, ...]:
    """The events for `data` that was read of a body; `ended` if nothing of it is left. `trailers`
    go with its end."""
    if not data:
        return (MessageEnded(stream_id, trailers),) if ended else ()
    if ended:
        return BodyData(stream_id, data), MessageEnded(stream_id, trailers)
    return (BodyData(stream_id, data),)
