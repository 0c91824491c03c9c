"""Checks the heads and trailers of HTTP/2 as strictly as those of HTTP/1.1, with the same parser.

A request's fields are written as a head of HTTP/1.1, which request_head.py then parses. So method,
path, fields, limits and refusals can't differ between the two. A server behind the upstream may
write HTTP/1.1 from these fields too, so nothing passes here that would be two lines there.

Rules of this file (RFC 9113 8.2, 8.3):
- Each pseudo-header must be there once, before all fields. An unknown one is refused.
- Names are lower-case tokens. Values have no control character and no blank at either end.
- No field is about the connection; `te` may say `trailers` alone.
- A Host field must repeat :authority, byte for byte but for the case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.response_head import BadResponse
from nono_trio.core.http.trailers import MAX_TRAILER_FIELDS, REASON, is_forbidden
from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.core.http.header_fields import Field

HTTPS_PORT: Final = 443
_PSEUDO: Final = (b":method", b":scheme", b":authority", b":path")
_NAME = late_pattern(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = late_pattern(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_WORD = late_pattern(rb"[\x21-\x7e]+")
_METHOD = late_pattern(rb"[A-Z][A-Z-]{0,31}")
_STATUS = late_pattern(rb"[1-9][0-9][0-9]")
_LENGTH = late_pattern(rb"0|[1-9][0-9]{0,18}")
_PORT = late_pattern(rb":([0-9]+)\Z")
CONNECTION_FIELDS: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)
_SWITCHING: Final = 101
_WITHOUT_BODY: Final = frozenset({204, 304})


class FieldFault(Exception):
    """Fields that no message of HTTP/2 can have. `reason` quotes no input."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def request_bytes(fields: Sequence[Field], port: int, *, ended: bool) -> bytes:
    """Return a request's head as HTTP/1.1 has it, for a connection to `port`.

    `ended`: no body follows. A body without a length is written as chunked. Raises BadRequest: 400,
    and 421 for the authority of another port.
    """
    try:
        pseudo, rest = _split(fields, _PSEUDO)
        _check_pseudo(pseudo)
        _check_host(pseudo[b":authority"], rest)
    except FieldFault as fault:
        raise BadRequest(400, fault.reason) from None
    authority = pseudo[b":authority"]
    if _port(authority) != port:
        raise BadRequest(421, "the authority names another port than the connection's")
    lines = [b"%b %b HTTP/1.1" % (pseudo[b":method"], pseudo[b":path"]), b"host: " + authority]
    lines += [b"%b: %b" % field for field in rest if field[0] != b"host"]
    if not ended and all(name != b"content-length" for name, _ in rest):
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join([*lines, b"", b""])


def outgoing_fields(fields: Iterable[Field], *, expects: bool) -> list[Field]:
    """The fields of an accepted request that go to the server: without pseudo-headers, Host, and
    what is for a proxy. `expects`: an expectation stays."""
    return [
        field
        for field in fields
        if not field[0].startswith((b":", b"proxy-"))
        and field[0] != b"host"
        and (expects or field[0] != b"expect")
    ]


def response_head(fields: Sequence[Field], method: str) -> tuple[int, list[Field], int | None]:
    """Return status, fields and the length of the body of a response to `method`; None if it says
    no length. Raises BadResponse."""
    try:
        pseudo, rest = _split(fields, (b":status",))
    except FieldFault as fault:
        raise BadResponse(f"the upstream's response is malformed: {fault.reason}") from None
    if not _STATUS.fullmatch(pseudo.get(b":status", b"")):
        raise BadResponse("the upstream's response has no status")
    status = int(pseudo[b":status"])
    if status == _SWITCHING:
        raise BadResponse("the upstream switched protocols, which HTTP/2 can't")
    lengths = [value for name, value in rest if name == b"content-length"]
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadResponse("the upstream's content-length is not one plain decimal number")
    kept = [field for field in rest if not field[0].startswith(b"proxy-")]
    if method == "HEAD" or status in _WITHOUT_BODY:
        return status, kept, 0
    return status, kept, int(lengths[0]) if lengths else None


def check_trailers(fields: Sequence[Field]) -> None:
    """Raise FieldFault for trailers that must not be passed on."""
    _, rest = _split(fields, ())
    if len(rest) > MAX_TRAILER_FIELDS:
        raise FieldFault(f"there are more than {MAX_TRAILER_FIELDS} trailers")
    if any(is_forbidden(name) for name, _ in rest):
        raise FieldFault(REASON)


def _split(
    fields: Sequence[Field], known: tuple[bytes, ...]
) -> tuple[dict[bytes, bytes], list[Field]]:
    """The pseudo-headers and the fields. Raises FieldFault."""
    pseudo, rest = dict[bytes, bytes](), list[tuple[bytes, bytes]]()
    for name, value in fields:
        if name[:1] == b":":
            if name not in known:
                raise FieldFault("a pseudo-header does not belong there")
            if rest:
                raise FieldFault("a pseudo-header stands after a field")
            if name in pseudo:
                raise FieldFault(f"the pseudo-header {name.decode()} is there more than once")
            pseudo[name] = bytes(value)
            continue
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise FieldFault("a field has characters that it can't have")
        if name in CONNECTION_FIELDS:
            raise FieldFault(f"the field {name.decode()} is about the connection")
        if name == b"te" and value != b"trailers":
            raise FieldFault("the field te says more than trailers")
        rest.append((bytes(name), bytes(value)))
    return pseudo, rest


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    for name in _PSEUDO:
        if not _WORD.fullmatch(pseudo.get(name, b"")):
            raise FieldFault(f"the pseudo-header {name.decode()} is missing or malformed")
    if not _METHOD.fullmatch(pseudo[b":method"]):
        raise FieldFault("the method is malformed")
    if pseudo[b":scheme"] != b"https":
        raise FieldFault("the scheme is not https")


def _check_host(authority: bytes, rest: Sequence[Field]) -> None:
    hosts = [value for name, value in rest if name == b"host"]
    if len(hosts) > 1:
        raise FieldFault("the host field is there more than once")
    if hosts and hosts[0].lower() != authority.lower():
        raise FieldFault("the host field is not the same as :authority")


def _port(authority: bytes) -> int:
    match = _PORT.search(authority)
    return HTTPS_PORT if match is None else int(match[1][:6])
