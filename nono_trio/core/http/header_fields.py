"""Header fields: which of them cross the proxy, and the token in one of them.

Rules of this file:
- Fields are (name, value) pairs of bytes in their order, of a request or of a response.
- `Connection` may name fields to drop, except those that decide framing, routing or authority. The
  peer writes it, and removing another party's protection through it is a known attack.
- The token is returned; it is never compared or kept here, and it is in no error text.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Field: TypeAlias = tuple[bytes, bytes]

# RFC 9110 7.6.1, and HTTP2-Settings of RFC 7540 3.2.1. All of proxy-* is dropped as well: those
# fields are for this proxy, and one of them has the token.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_KEPT = frozenset(
    {
        b"authorization",
        b"cache-control",  # RFC 9110 7.6.1 forbids to name it
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"host",
        b"location",
        b"set-cookie",
        b"www-authenticate",
    }
)


def connection_options(value: bytes) -> list[bytes]:
    """The options of a Connection value in lower case, without empty ones."""
    return [option for part in value.lower().split(b",") if (option := part.strip(b" \t"))]


def end_to_end_fields(
    head_fields: Iterable[Field], dropped: frozenset[bytes] = frozenset()
) -> list[Field]:
    """The fields that may go to the other side, in order; the caller adds its own framing.

    Dropped are Connection and what it names, Keep-Alive, Proxy-*, TE, Trailer, Transfer-Encoding,
    Upgrade and HTTP2-Settings, and the fields in `dropped` (lower case). The fields in _KEPT stay
    even if Connection names them. Names may be in any case and keep it.
    """
    fields = [*head_fields]
    return passed_fields(fields, [name.lower() for name, _ in fields], dropped)


def passed_fields(
    head_fields: list[Field], lowered: list[bytes], dropped: frozenset[bytes] = frozenset()
) -> list[Field]:
    """As `end_to_end_fields`; `lowered` are the names in lower case."""
    is_plain = not dropped and _HOP_BY_HOP.isdisjoint(lowered)  # as many responses are
    if is_plain and b",proxy-" not in b",".join([b"", *lowered]):
        return head_fields
    fields, names, named = [], [], set[bytes]()
    for field, name in zip(head_fields, lowered, strict=True):
        if name in _HOP_BY_HOP:
            if name == b"connection":
                named.update(connection_options(field[1]))
        elif name not in dropped and not name.startswith(b"proxy-"):
            fields.append(field)
            names.append(name)
    named -= _KEPT
    if named.isdisjoint(names):
        return fields
    return [field for field, name in zip(fields, names, strict=True) if name not in named]


def end_to_end_trailers(
    head_fields: Iterable[Field], trailers: tuple[Field, ...]
) -> tuple[Field, ...]:
    """The trailers that may go to the other side: without those that a Connection field of the head
    names (RFC 9110 7.6.1)."""
    if not trailers:
        return ()
    options = [field for field in head_fields if field[0].lower() == b"connection"]
    return tuple(end_to_end_fields([*options, *trailers]))


def with_length(fields: Iterable[Field], length: int) -> list[Field]:
    """The fields with another length of the body, if they have one. Names may be in any case."""
    return [
        (name, b"%d" % length if name.lower() == b"content-length" else value)
        for name, value in fields
    ]


def presented_token(authorization: bytes | None) -> bytes | None:
    """The token in the value of a Proxy-Authorization field: `Basic user:token` (any user) or
    `Bearer token`.

    None if the field is missing, has another scheme, or can't be decoded. Exactly one space must
    follow the scheme. `parse_head` has refused a second such field already. RFC 7617, RFC 6750.
    """
    scheme, _, credential = (authorization or b"").partition(b" ")
    match scheme.lower():
        case b"bearer":
            return credential or None
        case b"basic":
            parts = basic_parts(credential)
            return parts[1] if parts else None
        case _:
            return None


def basic_parts(encoded: bytes) -> tuple[bytes, bytes] | tuple[()]:
    """Return user and password of `Basic`; () if they can't be decoded. RFC 7617."""
    try:
        user, colon, password = binascii.a2b_base64(encoded, strict_mode=True).partition(b":")
    except binascii.Error:
        return ()
    return (user, password) if colon else ()
