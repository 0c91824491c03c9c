"""Read the AWS signature of a request: Signature Version 4, in a field or in the query.

Rules of this file:
- A signature is in the Authorization field or in the query (a presigned URL). There is one, with
  each of its parts once. Anything else raises BadSignature.
- A payload is hashed, declared as unsigned, or declared by its hash, which the service compares. A
  payload whose parts have signatures of their own is refused: they would have to be made anew.
- No error and no `repr` has a key, a token or a signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.core.http.header_fields import Field

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
UNSIGNED: Final = b"UNSIGNED-PAYLOAD"
UNSIGNED_CHUNKS: Final = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"  # the trailer is not signed either
TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
# Services whose paths have escapes once in what is signed, and which take an unsigned payload.
STORES: Final = frozenset({b"s3", b"s3express", b"s3-object-lambda", b"s3-outposts"})

AUTHORIZATION: Final = b"authorization"
DATE: Final = b"x-amz-date"
TOKEN: Final = b"x-amz-security-token"
PAYLOAD: Final = b"x-amz-content-sha256"
QUERY_NAMES: Final = {
    one.lower(): one
    for one in (
        b"X-Amz-Algorithm", b"X-Amz-Credential", b"X-Amz-Date", b"X-Amz-Expires",
        b"X-Amz-SignedHeaders", b"X-Amz-Security-Token", b"X-Amz-Signature",
    )
}  # fmt: skip

_SCOPE: Final = late_pattern(
    rb"(.+)/([0-9]{8})/([a-z0-9-]{1,64})/([A-Za-z0-9-]{1,64})/aws4_request"
)
_TIME: Final = late_pattern(rb"[0-9]{8}T[0-9]{6}Z")
_HEX_DIGEST: Final = late_pattern(rb"[0-9a-f]{64}")
_NAMES: Final = late_pattern(rb"[a-z0-9!#$%&'*+.^_`|~-]+(?:;[a-z0-9!#$%&'*+.^_`|~-]+)*")
_EXPIRES: Final = late_pattern(rb"[1-9][0-9]{0,5}")
_FIELD_FORM: Final = late_pattern(rb"(?i:AWS|AWS4-[A-Z0-9-]+)[ \t].*", re.DOTALL)
_VERSION_2: Final = frozenset({b"awsaccesskeyid", b"signature"})


class BadSignature(Exception):
    """A request whose AWS signature can't be checked or made anew. `reason` continues "the AWS
    signature of the request"."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature that a request has. `payload` is None if the hash of the body is needed.

    `expires` is how many seconds a presigned URL holds; None for a signature in a field.
    """

    key_id: bytes = field(repr=False)
    time: bytes
    region: bytes
    service: bytes
    signed: tuple[bytes, ...]
    digest: bytes = field(repr=False)
    token: bytes | None = field(repr=False)
    payload: bytes | None
    expires: int | None = None

    @property
    def is_presigned(self) -> bool:
        """True if the signature is in the query."""
        return self.expires is not None


def read_signature(target: bytes, fields: Sequence[Field]) -> Signature | None:
    """Return the signature of a request, None without one. Names of fields are in lower case.

    Raises BadSignature, also for a signature of another kind.
    """
    query = list(pairs(target))
    names = {name.lower() for name, _ in query}
    given = _only(fields, AUTHORIZATION)
    in_field = given is not None and _FIELD_FORM.fullmatch(given) is not None
    in_query = b"x-amz-signature" in names or b"x-amz-credential" in names
    if in_field and in_query:
        raise BadSignature("is there twice, in a header and in the query")
    if names >= _VERSION_2:
        raise BadSignature("is of version 2", "have the client use Signature Version 4")
    if in_field and given is not None:
        return _from_field(given, fields)
    return _from_query(query, fields) if in_query else None


def is_over(signature: Signature, now: float) -> bool:
    """Return True for a presigned URL whose time has ended at `now`."""
    if signature.expires is None:
        return False
    return seconds_of(signature.time) + signature.expires < now


def seconds_of(time: bytes) -> float:
    """Return a time of a signature in seconds since 1970. Raises ValueError."""
    # strptime would import a module with its first call, which is too late in a run.
    date, clock = time[:8], time[9:15]
    parts = (date[:4], date[4:6], date[6:], clock[:2], clock[2:4], clock[4:])
    year, month, day, hour, minute, second = map(int, parts)
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()


def _from_field(value: bytes, fields: Sequence[Field]) -> Signature:
    algorithm, _, rest = value.partition(b" ")
    _check_algorithm(algorithm)
    parts: dict[bytes, bytes] = {}
    for part in rest.split(b","):
        name, _, text = part.strip(b" \t").partition(b"=")
        if name in parts:
            raise BadSignature("has a part twice")
        parts[name] = text
    if parts.keys() != {b"Credential", b"SignedHeaders", b"Signature"}:
        raise BadSignature("has other parts than Credential, SignedHeaders and Signature")
    time = _only(fields, DATE)
    if time is None:
        raise BadSignature("comes without the header X-Amz-Date")
    payload = _only(fields, PAYLOAD)
    return _made(
        parts[b"Credential"], parts[b"SignedHeaders"], parts[b"Signature"], time,
        _only(fields, TOKEN), None if payload is None else _declared(payload),
    )  # fmt: skip


def _from_query(query: Iterable[tuple[bytes, bytes]], fields: Sequence[Field]) -> Signature:
    parts: dict[bytes, bytes] = {}
    for name, value in query:
        if (known := name.lower()) in QUERY_NAMES:
            if known in parts or name != QUERY_NAMES[known]:
                raise BadSignature("has a part twice, or one in another spelling")
            parts[known] = value
    missing = QUERY_NAMES.keys() - parts.keys() - {b"x-amz-security-token"}
    if missing:
        raise BadSignature("in the query has not all of its parts")
    _check_algorithm(parts[b"x-amz-algorithm"])
    if not _EXPIRES.fullmatch(parts[b"x-amz-expires"]):
        raise BadSignature("in the query has no time for which it holds")
    declared = _only(fields, PAYLOAD)
    found = _made(
        parts[b"x-amz-credential"], parts[b"x-amz-signedheaders"], parts[b"x-amz-signature"],
        parts[b"x-amz-date"], parts.get(b"x-amz-security-token"), UNSIGNED,
        int(parts[b"x-amz-expires"]),
    )  # fmt: skip
    if declared is not None:
        return replace(found, payload=_declared(declared))
    return found if found.service in STORES else replace(found, payload=None)


def _made(
    credential: bytes,
    signed: bytes,
    digest: bytes,
    time: bytes,
    token: bytes | None,
    payload: bytes | None,
    expires: int | None = None,
) -> Signature:
    scope = _SCOPE.fullmatch(credential)
    if scope is None:
        raise BadSignature("has a Credential that is not KEY/DATE/REGION/SERVICE/aws4_request")
    if not _TIME.fullmatch(time) or not time.startswith(scope[2]):
        raise BadSignature("has another date than its scope")
    try:
        seconds_of(time)
    except ValueError:
        raise BadSignature("has a date that is none") from None
    names = tuple(signed.split(b";"))
    if not _NAMES.fullmatch(signed) or b"host" not in names or len(set(names)) != len(names):
        raise BadSignature("is not over the host, or names a header twice")
    if not _HEX_DIGEST.fullmatch(digest):
        raise BadSignature("is not 64 hex digits")
    return Signature(scope[1], time, scope[3], scope[4], names, digest, token, payload, expires)


def _check_algorithm(algorithm: bytes) -> None:
    if algorithm == ALGORITHM:
        return
    if algorithm.startswith(b"AWS4-"):
        raise BadSignature(
            "is of another algorithm than AWS4-HMAC-SHA256",
            "have the client use Signature Version 4 for one region, not 4A",
        )
    raise BadSignature("is of version 2", "have the client use Signature Version 4")


def _declared(payload: bytes) -> bytes:
    """Check what a client says about the payload."""
    if payload in (UNSIGNED, UNSIGNED_CHUNKS) or _HEX_DIGEST.fullmatch(payload):
        return payload
    if payload.startswith(b"STREAMING-"):
        raise BadSignature(
            "goes on in the parts of the body, where it can't be made anew",
            "turn chunked signing off in the client, as by payload signing off over https",
        )
    raise BadSignature("is over a payload hash that is not 64 lower-case hex digits")


def _only(fields: Sequence[Field], name: bytes) -> bytes | None:
    values = [value for one, value in fields if one == name]
    if len(values) > 1:
        raise BadSignature(f"comes with the header {name.decode()} twice")
    return values[0] if values else None


def pairs(target: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and values of a query, decoded."""
    query = target.partition(b"?")[2]
    for pair in query.split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        yield unquote_to_bytes(name), unquote_to_bytes(value)
