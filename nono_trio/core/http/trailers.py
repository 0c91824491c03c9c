"""Trailers: the fields after a body, and the fields of a head that are about them.

A recipient may add trailers to the fields of the head. So a trailer must not have a name whose
value decides how a message is framed, routed, authenticated or read (RFC 9110 6.5.1).

Rules of this file:
- A forbidden name is refused, never dropped: a server behind the next one may read the original.
- Gateways read any odd character of a name as "_", so `Content_Length` is forbidden too.
- `Trailer` is written anew, with the names that may follow. Go's server drops trailers that it does
  not name.
- `TE: trailers` is written anew too. It is about one connection, and we pass trailers on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.message import RequestHead

MAX_TRAILERS: Final = 8 * 1024  # bytes of all lines; checksums and a status need some hundreds
MAX_TRAILER_FIELDS: Final = 64

TE_FIELD: Final[Field] = (b"TE", b"trailers")
REASON: Final = "a trailer field must not change framing, routing or authentication"

_TOKEN = late_pattern(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ODD_IN_NAME = late_pattern(rb"[^0-9a-z]")
_FORBIDDEN: Final = frozenset(
    {
        # framing, and the connection
        b"connection", b"content-length", b"http2-settings", b"keep-alive", b"te", b"trailer",
        b"transfer-encoding", b"upgrade",
        # routing
        b"host",
        # authentication
        b"authorization", b"cookie", b"set-cookie", b"www-authenticate",
        # how a request is to be read
        b"cache-control", b"expect", b"if-match", b"if-modified-since", b"if-none-match",
        b"if-range", b"if-unmodified-since", b"max-forwards", b"pragma", b"range",
        # what a body is
        b"content-encoding", b"content-range", b"content-type",
    }
)  # fmt: skip


def is_forbidden(name: bytes) -> bool:
    """Return True for a name, in any case, that no trailer may have."""
    spelled = _ODD_IN_NAME.sub(b"-", name.lower())
    return spelled in _FORBIDDEN or spelled.startswith(b"proxy-")


def announced(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Return the Trailer field for a message whose trailers are passed on, or nothing. `fields`
    are those of its head, with names in any case."""
    names = []
    for field, value in fields:
        if field.lower() == b"trailer":
            names += [part.strip(b" \t") for part in value.split(b",")]
    kept = [name for name in names if _TOKEN.fullmatch(name) and not is_forbidden(name)]
    return ((b"Trailer", b", ".join(kept)),) if kept else ()


def takes_trailers(head: RequestHead) -> bool:
    """Return True if a request says that its sender reads trailers."""
    options = head.block.guarded.get(b"te")
    if options is None or head.version == "1.0":
        return False
    return any(part.strip(b" \t").lower() == b"trailers" for part in options.split(b","))
