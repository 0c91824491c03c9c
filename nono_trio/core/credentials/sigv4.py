"""AWS Signature Version 4: check the signature of a request, and sign it with other keys.

The client has signed with stand-ins. Its signature is checked with them first, so that only who has
all of them gets a request signed. Then the request gets a new time, the real token and a new
signature; its region, service and payload hash stay.

Services differ in how they write a path before they hash it, and clients in how they write a query.
The form that makes the client's signature right is used again.

Rules of this file:
- The fields that are signed are those that the client has signed and that go out, and all of AWS's
  own (x-amz-*).
- No error and no `repr` has a key, a token or a signature.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from nono_trio.core.credentials.aws_signature import (
    ALGORITHM,
    AUTHORIZATION,
    DATE,
    PAYLOAD,
    QUERY_NAMES,
    STORES,
    TIME_FORMAT,
    TOKEN,
    BadSignature,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.core.credentials.aws_keys import AwsKeys
    from nono_trio.core.credentials.aws_signature import Signature
    from nono_trio.core.http.header_fields import Field

MAX_BODY: Final = 16 * 1024 * 1024  # bytes of a body that has to be hashed before it is sent

# Fields that a proxy or a server may change.
_NEVER_SIGNED: Final = frozenset(
    {b"authorization", b"connection", b"expect", b"te", b"transfer-encoding", b"user-agent"}
)


class Spelling(NamedTuple):
    """How a client wrote path and query before it hashed them."""

    path: int
    query: int


class SignedRequest(NamedTuple):
    """The target and the fields that go out. They carry the token."""

    target: bytes
    fields: list[Field]

    def __repr__(self) -> str:
        return "SignedRequest(...)"


def find_spelling(
    signature: Signature,
    method: bytes,
    target: bytes,
    fields: Sequence[Field],
    keys: AwsKeys,
    payload: bytes,
) -> Spelling:
    """Return how the client wrote what it signed. Raises BadSignature for a signature that `keys`
    did not make. `payload` is the hash of the body, or a text in its place."""
    if not keys.has_id(signature.key_id):
        raise BadSignature("is of another key than the stand-in")
    if signature.token is not None and not keys.has_token(signature.token):
        raise BadSignature("has another session token than the stand-in")
    names = {name for name, _ in fields}
    if not names.issuperset(signature.signed):
        raise BadSignature("is over a header that the request does not have")
    for spelling in _spellings(signature.service):
        canonical = _canonical(
            method, _path(target, spelling), _query(target, spelling), fields, signature.signed,
            payload,
        )  # fmt: skip
        digest = _sign(canonical, signature.time, signature.region, signature.service, keys)
        if hmac.compare_digest(digest, signature.digest):
            return spelling
    raise BadSignature(
        "is not that of the stand-in",
        "have the client take its keys from the variables that this session has set",
    )


def sign(
    signature: Signature,
    spelling: Spelling,
    method: bytes,
    target: bytes,
    fields: Sequence[Field],
    keys: AwsKeys,
    payload: bytes,
    now: float,
) -> SignedRequest:
    """Return the request with a new signature by `keys`, made at `now` (seconds since 1970).

    `fields` are those that go out, with Host, in any case; `payload` is as for `find_spelling`.
    """
    time = datetime.fromtimestamp(now, UTC).strftime(TIME_FORMAT).encode()
    if signature.is_presigned:
        return _presign(signature, spelling, method, target, fields, keys, payload, time)
    has_payload = any(name.lower() == PAYLOAD for name, _ in fields)
    new = {DATE: time}
    if keys.session_token is not None:
        new[TOKEN] = keys.session_token
    if has_payload or signature.service in STORES:
        new[PAYLOAD] = payload
    dropped = {*new, TOKEN, AUTHORIZATION}
    kept = [one for one in fields if one[0].lower() not in dropped]
    kept += [(_written(name), value) for name, value in new.items()]
    lower = [(name.lower(), value) for name, value in kept]
    signed = _to_sign(signature.signed, lower)
    canonical = _canonical(
        method, _path(target, spelling), _query(target, spelling), lower, signed, payload
    )
    digest = _sign(canonical, time, signature.region, signature.service, keys)
    credential = keys.access_key_id + b"/" + _scope(time, signature.region, signature.service)
    value = b"%b Credential=%b, SignedHeaders=%b, Signature=%b" % (
        ALGORITHM, credential, b";".join(signed), digest,
    )  # fmt: skip
    return SignedRequest(target, [*kept, (b"Authorization", value)])


def payload_hash(body: bytes) -> bytes:
    """Return the hash of a body, as a signature has it."""
    return sha256(body).hexdigest().encode()


def _presign(
    signature: Signature,
    spelling: Spelling,
    method: bytes,
    target: bytes,
    fields: Sequence[Field],
    keys: AwsKeys,
    payload: bytes,
    time: bytes,
) -> SignedRequest:
    path, _, query = target.partition(b"?")
    kept = [one for one in query.split(b"&") if _name(one).lower() not in QUERY_NAMES]
    scope = _scope(time, signature.region, signature.service)
    lower = [(name.lower(), value) for name, value in fields]
    signed = tuple(sorted(set(signature.signed) & {name for name, _ in lower}))
    new = {
        b"X-Amz-Algorithm": ALGORITHM,
        b"X-Amz-Credential": keys.access_key_id + b"/" + scope,
        b"X-Amz-Date": time,
        b"X-Amz-Expires": b"%d" % (signature.expires or 0),
        b"X-Amz-SignedHeaders": b";".join(signed),
    }
    if keys.session_token is not None:
        new[b"X-Amz-Security-Token"] = keys.session_token
    pairs = [one for one in kept if one]
    pairs += [name + b"=" + _encoded(value) for name, value in new.items()]
    target = path + b"?" + b"&".join(pairs)
    canonical = _canonical(
        method, _path(target, spelling), _query(target, spelling), lower, signed, payload
    )
    digest = _sign(canonical, time, signature.region, signature.service, keys)
    return SignedRequest(target + b"&X-Amz-Signature=" + digest, [*fields])


def _name(pair: bytes) -> bytes:
    return unquote_to_bytes(pair.partition(b"=")[0])


def _spellings(service: bytes) -> Iterator[Spelling]:
    """The spellings to try, the service's own first."""
    first = 0 if service in STORES else 1
    for path in (first, *(one for one in range(3) if one != first)):
        for query in range(2):
            yield Spelling(path, query)


def _path(target: bytes, spelling: Spelling) -> bytes:
    """The path: with escapes once, with them once more after dot segments went, or with those."""
    path = target.partition(b"?")[0]
    if spelling.path == 0:
        return _encoded(unquote_to_bytes(path), b"/")
    return _encoded(_without_dots(path) if spelling.path == 1 else path, b"/")


def _query(target: bytes, spelling: Spelling) -> bytes:
    """The query in order, without a signature; its escapes written anew, or as they came."""
    query = target.partition(b"?")[2]
    pairs: list[tuple[bytes, bytes]] = []
    for pair in query.split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        if unquote_to_bytes(name) == b"X-Amz-Signature":
            continue
        if spelling.query == 0:
            name, value = _encoded(unquote_to_bytes(name)), _encoded(unquote_to_bytes(value))
        pairs.append((name, value))
    return b"&".join(name + b"=" + value for name, value in sorted(pairs))


def _without_dots(path: bytes) -> bytes:
    """Remove dot segments and empty ones. RFC 3986 5.2.4."""
    kept: list[bytes] = []
    for one in path.split(b"/"):
        if one == b"..":
            del kept[-1:]
        elif one not in (b"", b"."):
            kept.append(one)
    end = b"/" if kept and path.endswith((b"/", b"/.", b"/..")) else b""
    return b"/" + b"/".join(kept) + end


def _encoded(text: bytes, safe: bytes = b"") -> bytes:
    """Write a text with percent escapes for all but letters, digits and -_.~"""
    return quote(text, safe=safe.decode()).encode()


def _to_sign(signed: Iterable[bytes], fields: Sequence[Field]) -> tuple[bytes, ...]:
    names = {name for name, _ in fields}
    own = {name for name in names if name.startswith(b"x-amz-")}
    wanted = (set(signed) & names) | own | {b"host"}
    return tuple(sorted(wanted - _NEVER_SIGNED))


def _canonical(
    method: bytes,
    path: bytes,
    query: bytes,
    fields: Sequence[Field],
    signed: Iterable[bytes],
    payload: bytes,
) -> bytes:
    names = sorted(signed)
    lines = [
        name + b":" + b",".join(b" ".join(value.split()) for one, value in fields if one == name)
        for name in names
    ]
    return b"\n".join((method, path, query, *lines, b"", b";".join(names), payload))


def _scope(time: bytes, region: bytes, service: bytes) -> bytes:
    return b"/".join((time[:8], region, service, b"aws4_request"))


def _sign(canonical: bytes, time: bytes, region: bytes, service: bytes, keys: AwsKeys) -> bytes:
    """Return the signature of a canonical request, in hex."""
    scope = _scope(time, region, service)
    text = b"\n".join((ALGORITHM, time, scope, payload_hash(canonical)))
    key = b"AWS4" + keys.secret_access_key
    for part in scope.split(b"/"):
        key = hmac.digest(key, part, "sha256")
    return hmac.digest(key, text, "sha256").hex().encode()


def _written(name: bytes) -> bytes:
    """The usual spelling of a field of AWS."""
    return b"-".join(part.capitalize() for part in name.split(b"-")).replace(b"Sha256", b"SHA256")
