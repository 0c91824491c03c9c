"""Put stand-ins in the place of secrets in a text of the user's: a variable's value, a file.

Rules of this file:
- A secret is found as it is, percent-encoded, as in a JSON string, and inside of base64 (both
  alphabets), as Docker's settings have `user:password`. Base64 inside of base64 is not looked into.
- Everything else stays byte for byte.
- Longer secrets go first, because one secret may be a part of another.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

import msgspec

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# 8 bytes, the least of a secret, are 11 characters of base64.
_BASE64: Final = late_pattern(rb"[A-Za-z0-9+/_-]{11,}={0,2}")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def with_stand_ins(text: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return `text` with each secret replaced; `pairs` are secrets and their stand-ins."""
    longest_first = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)
    for secret, stand_in in longest_first:
        for form in _forms(secret):
            text = text.replace(form, stand_in)
    return _BASE64.sub(lambda match: _in_base64(match[0], longest_first), text)


def _forms(secret: bytes) -> Iterator[bytes]:
    """Yield the spellings of a secret; a stand-in has one spelling in all of them."""
    yield secret
    for safe in ("", "/", "!$&'()*+,;=:@/"):
        encoded = quote_from_bytes(secret, safe=safe).encode()
        if encoded != secret:
            yield encoded
    try:
        escaped = msgspec.json.encode(secret.decode())[1:-1]
    except UnicodeDecodeError:
        return
    if escaped != secret:
        yield escaped


def _in_base64(encoded: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    bare = encoded.rstrip(b"=")
    if len(bare) % 4 == 1:
        return encoded
    try:
        decoded = b64decode(bare.translate(_STANDARD) + b"=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return encoded
    changed = decoded
    for secret, stand_in in pairs:
        changed = changed.replace(secret, stand_in)
    if changed == decoded:
        return encoded
    new = b64encode(changed)
    if b"-" in encoded or b"_" in encoded:
        new = new.translate(_URL_SAFE)
    return new if encoded.endswith(b"=") or len(bare) % 4 == 0 else new.rstrip(b"=")
