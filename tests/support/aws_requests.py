"""Requests as a client of AWS signs them, a credential that signs, and a server's check."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from looked_into import HOST

from nono_trio.core.credentials.aws_keys import AwsKeys
from nono_trio.core.credentials.aws_signature import BadSignature, Signature, read_signature
from nono_trio.core.credentials.credential import Credential, parse_bound_host
from nono_trio.core.credentials.sigv4 import Spelling, find_spelling, payload_hash, sign
from nono_trio.proxy.credentials.interfaces import SecretUnavailable

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    import h11

STAND_INS = AwsKeys(
    b"ASIAQ3EGN7TZ2KXWVBLP", b"u4ZrT8wQyX1vB6nM3kLp/9sDfGh+2jKcVbNmQwEr",
    b"IQoJb3JpZ2luX2VjQm8xRzd4TmZ0VWp3WnJRazVhSGVMcFl2S3NEbUNiVnhOZ0Z0UmpXeVo=",
)  # fmt: skip
REAL = AwsKeys(
    b"ASIAREALREALREALREAL", b"the/real+secret/key/of/forty/characters0", b"real-token=="
)
PAYLOAD = "X-Amz-Content-Sha256"


@dataclass
class HeldKeys:
    """A `SigningCredential`; `value` are its keys, or why there are none."""

    credential: Credential
    stand_ins: AwsKeys = field(default=STAND_INS, repr=False)
    value: AwsKeys | SecretUnavailable = field(default=REAL, repr=False)

    @property
    def stand_in(self) -> bytes:
        return self.stand_ins.access_key_id

    def shown(self) -> tuple[bytes, ...]:
        return self.stand_ins.texts()

    async def secret(self) -> bytes:
        raise AssertionError("keys that sign are sent to nobody")

    async def keys(self) -> AwsKeys:
        if isinstance(self.value, SecretUnavailable):
            raise self.value
        return self.value


def held_keys(*hosts: str, name: str = "aws") -> HeldKeys:
    """Keys for `hosts`, or for HOST."""
    bound = tuple(parse_bound_host(name, one) for one in hosts or [HOST])
    return HeldKeys(Credential(name, "env://X", bound, kind="sigv4"))


def signed(
    method: str = "POST",
    target: str = "/sink",
    *,
    body: bytes = b"",
    service: str = "dynamodb",
    declared: bytes | None = None,
    keys: AwsKeys = STAND_INS,
    host: str = HOST,
    fields: tuple[str, ...] = (),
    chunked: bool = False,
    presigned: bool = False,
) -> bytes:
    """The bytes of a signed request. `declared`: what the client says about the payload."""
    given = [(b"host", host.encode())]
    given += [tuple(part.strip().encode() for part in one.split(":", 1)) for one in fields]
    payload = declared or payload_hash(body)
    if declared is not None and not presigned:
        given.append((PAYLOAD.encode(), declared))
    model = Signature(
        keys.access_key_id, b"", b"eu-central-1", service.encode(), (b"host",), b"", None, payload,
        600 if presigned else None,
    )  # fmt: skip
    spelling = Spelling(0 if service == "s3" else 1, 0)
    made = sign(
        model, spelling, method.encode(), target.encode(), given, keys, payload, time.time()
    )
    lines = [b"%b %b HTTP/1.1" % (method.encode(), made.target)]
    lines += [name + b": " + value for name, value in made.fields]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"".join(line + b"\r\n" for line in (*lines, b"")) + body


def signed_fields(request: bytes) -> tuple[str, list[tuple[bytes, bytes]], bytes]:
    """Return target, fields without Host (lower-case) and body of what `signed` made."""
    top, _, body = request.partition(b"\r\n\r\n")
    line, *lines = top.split(b"\r\n")
    fields = [(name.lower(), value) for name, _, value in (one.partition(b": ") for one in lines)]
    return line.split(b" ")[1].decode(), [one for one in fields if one[0] != b"host"], body


def check(request: h11.Request, body: bytes = b"", keys: AwsKeys = REAL) -> Signature:
    """Check the signature of what an origin got, as the service would; return it."""
    fields = [(bytes(name), bytes(value)) for name, value in request.headers]
    return check_parts(bytes(request.method), bytes(request.target), fields, body, keys)


def check_parts(
    method: bytes,
    target: bytes,
    fields: list[tuple[bytes, bytes]],
    body: bytes = b"",
    keys: AwsKeys = REAL,
) -> Signature:
    """As `check`, for a request in parts."""
    found = read_signature(target, fields)
    assert found is not None
    payload = found.payload or payload_hash(body)
    find_spelling(found, method, target, fields, keys, payload)
    assert found.token == keys.session_token
    assert not set(STAND_INS.texts()) & set(b" ".join((target, *dict(fields).values())).split())
    return found


def is_signed(request: BaseHTTPRequestHandler, body: bytes, keys: AwsKeys) -> bool:
    """Return whether these keys have signed what an origin got."""
    fields = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    method, target = request.command.encode(), request.path.encode()
    try:
        found = check_parts(method, target, fields, body, keys)
    except BadSignature:
        return False
    return found.payload in (None, payload_hash(body))
