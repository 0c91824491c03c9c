"""Calls of AWS services whose answer has keys: they would put real ones into the cage.

Answers are not changed, so such a call is refused. Its user has the keys made outside, by the
source of the credential.

Rules of this file:
- Only STS, IAM and S3 Express are checked, because most other services have no keys in their
  answers. Of STS, only calls whose answers are known to be without keys may go.
- A call that can't be read counts as one whose answer has keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_BODY: Final = frozenset({b"sts", b"iam"})  # services that name their calls in the body
_WITHOUT_KEYS: Final = frozenset(
    {b"GetCallerIdentity", b"DecodeAuthorizationMessage", b"GetAccessKeyInfo"}
)
_WITH_KEYS: Final = frozenset(
    {b"CreateAccessKey", b"CreateServiceSpecificCredential", b"ResetServiceSpecificCredential"}
)
_ACTION: Final = b"Action"


def answers_with_keys(service: bytes, target: bytes, body: bytes) -> bool:
    """Return True if the answer to a call may have keys in it."""
    query = target.partition(b"?")[2]
    if service == b"s3express":
        return any(name == b"session" for name, _ in _pairs(query))
    if service not in IN_BODY:
        return False
    actions = {value for name, value in (*_pairs(query), *_pairs(body)) if name == _ACTION}
    if service == b"sts":
        return not actions or not actions <= _WITHOUT_KEYS
    return not actions or bool(actions & _WITH_KEYS)


def _pairs(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    for pair in text.split(b"&"):
        name, _, value = pair.partition(b"=")
        yield unquote_to_bytes(name), unquote_to_bytes(value)
