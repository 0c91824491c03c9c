"""Make a stand-in: a value that has the shape of a secret and nothing else of it.

Tools check the shape of their token before they send it, so a stand-in has the secret's length, its
well-known prefix, and in each position a character of the same class: upper-case letter, lower-case
letter, digit. All other characters stay where they are.

Rules of this file:
- A text of hex digits, a UUID and the characters of base32 stay what they are. The last character
  before base64 padding stays, because strict decoders refuse other bits there.
- A stand-in is printable ASCII without space, quote, percent sign and backslash (they become
  hyphens): a legal header value, which every encoding of a search can tell from an escape.
- A checksum that the secret has (GitHub, npm) is computed anew.
- A JWT keeps its header, and in its claims the names, numbers and truth values; texts change.
- A stand-in must not occur by chance: it is at least MIN_LENGTH long and has MIN_BITS of
  randomness. A secret with less (a password) gets a stand-in that is longer than itself. One
  shorter than MIN_SECRET is refused, because its value occurs in texts that have nothing to do
  with it.
- No error contains the secret or a part of it.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import log2
from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIN_SECRET: Final = 8  # bytes
MAX_SECRET: Final = 64 * 1024  # bytes, the most that a source returns
MIN_LENGTH: Final = 16  # bytes of a stand-in
MIN_BITS: Final = 64.0
MAX_TRIES: Final = 16  # a stand-in with 64 random bits contains the secret once in 2**64 draws

_UPPER: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER: Final = b"abcdefghijklmnopqrstuvwxyz"
_DIGITS: Final = b"0123456789"
_BASE62: Final = _DIGITS + _UPPER + _LOWER

# Longest first, so that the first that fits is the right one.
PREFIXES: Final = tuple(
    sorted(
        b"""
        sk-ant-api03- sk-ant-admin01- sk-ant-oat01- sk-ant-ort01- sk-ant- sk-proj- sk-svcacct-
        sk-admin- sk-or-v1- sk-lf- sk- pk-lf- ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- gldt-
        glrt- glptt- glcbt- hf_ npm_ pypi-AgEI pypi- AIza ya29. 1// GOCSPX- AKIA ASIA ABSK
        bedrock-api-key- xoxb- xoxp- xoxa- xoxe. xoxs- xapp- gsk_ nvapi- r8_ xai- fw_ tgp_v1_ pplx-
        csk- co_ sk_live_ sk_test_ rk_live_ rk_test_ whsec_ SG. hvs. dop_v1_ doo_v1_ dapi lin_api_
        figd_ ntn_ secret_ sntrys_ sntryu_ shpat_ ATATT3xFf ATCTT3xFf rubygems_ dckr_pat_ dp.pt.
        """.split(),
        key=len,
        reverse=True,
    )
)
# Texts at the end or in the middle of some keys by which tools know them.
_FIXED_TEXT: Final = late_pattern(rb"T3BlbkFJ|(?<=.{80})AA\Z", re.DOTALL)
_BASE32_PREFIXES: Final = frozenset({b"AKIA", b"ASIA"})
_BASE32_DIGITS: Final = b"234567"
# A prefix that is not in the table: one short word. What follows must look like no passphrase.
_SHORT_WORD: Final = late_pattern(rb"[A-Za-z]{2,6}[_-](?=[^ ]{20,}\Z)(?=.*[0-9])")

_HEX_LOWER: Final = late_pattern(rb"(?=[^a-f]*[a-f])[0-9a-f]{16,}")
_HEX_UPPER: Final = late_pattern(rb"(?=[^A-F]*[A-F])[0-9A-F]{16,}")
_UUID: Final = late_pattern(
    rb"([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-)([0-9a-fA-F])([0-9a-fA-F]{3}-)([0-9a-fA-F])"
    rb"([0-9a-fA-F]{3}-[0-9a-fA-F]{12})"
)
_PADDED: Final = late_pattern(rb"([A-Za-z0-9+/_-]{7,})([A-Za-z0-9+/_-]={1,2})")
_CHECKSUM_LENGTH: Final = 6
_CHECKSUMMED: Final = late_pattern(rb"((?:gh[pousr]|npm|github_pat)_(?:\w*_)?)([A-Za-z0-9]{12,})")
_JWT: Final = late_pattern(rb"(eyJ[\w-]+)\.([\w-]+)\.([\w-]*)")
# In a JSON text: a string with the colon that makes it a name, or anything else.
_JSON_STRING: Final = late_pattern(rb'("(?:[^"\\]|\\.)*")(\s*:)?', re.DOTALL)
_UNSAFE: Final = bytes(
    one if 0x21 <= one <= 0x7E and one not in b'%\\"' else ord("-") for one in range(256)
)
_JSON_ESCAPE: Final = late_pattern(rb"(\\u[0-9a-fA-F]{4}|\\.)", re.DOTALL)


class UnfitSecret(Exception):
    """A secret that can't have a stand-in. `reason` completes "the secret ...", and has no part of
    the secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def stand_in_like(
    secret: bytes, draw: Callable[[int], int], *, keeps_claims: bool = False
) -> bytes:
    """Return a new stand-in for `secret`. `draw(n)` returns a random number below n: in production
    `secrets.randbelow`.

    `keeps_claims`: of a JWT only the signature changes, for a client that reads its own claims.
    The result differs from the secret and does not contain it. Raises UnfitSecret for a secret that
    is shorter than MIN_SECRET bytes or longer than MAX_SECRET.
    """
    if len(secret) < MIN_SECRET:
        raise UnfitSecret(f"is shorter than {MIN_SECRET} bytes")
    if len(secret) > MAX_SECRET:
        raise UnfitSecret(f"is longer than {MAX_SECRET} bytes")
    for _ in range(MAX_TRIES):
        maker = _Maker(draw)
        shaped = maker.shaped(secret, keeps_claims=keeps_claims)
        made = maker.filled(shaped.translate(_UNSAFE))
        if secret not in made:
            return made
    # A secret of punctuation only stays whole in its own shape.
    return _Maker(draw).filled(b"")


class _Maker:
    """Draws characters, and counts the randomness in bits."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self._bits = 0.0

    def shaped(self, secret: bytes, *, keeps_claims: bool) -> bytes:
        if (jwt := _JWT.fullmatch(secret)) is not None and _is_json(jwt[1]):
            claims = jwt[2] if keeps_claims else self._claims(jwt[2])
            return b".".join((jwt[1], claims, self._unpadded(jwt[3])))
        if (checked := _CHECKSUMMED.fullmatch(secret)) is not None:
            made = self._checksummed(checked[1], checked[2])
            if made is not None:
                return made
        prefix = _prefix(secret)
        rest = secret[len(prefix) :]
        if prefix in _BASE32_PREFIXES:
            return prefix + self._base32(rest)
        return prefix + self._body(rest)

    def filled(self, made: bytes) -> bytes:
        """Return the value with random letters and digits behind it until it is long and random
        enough."""
        missing = max(MIN_LENGTH - len(made), int((MIN_BITS - self._bits) / log2(62)) + 1)
        if self._bits >= MIN_BITS and len(made) >= MIN_LENGTH:
            return made
        return made + bytes(self._one_of(_BASE62) for _ in range(missing))

    def _one_of(self, alphabet: bytes) -> int:
        self._bits += log2(len(alphabet))
        return alphabet[self._draw(len(alphabet))]

    def _body(self, text: bytes) -> bytes:
        if _HEX_LOWER.fullmatch(text):
            return self._from(text, _DIGITS + b"abcdef")
        if _HEX_UPPER.fullmatch(text):
            return self._from(text, _DIGITS + b"ABCDEF")
        if (uuid := _UUID.fullmatch(text)) is not None:
            parts = (self._hex(uuid[1]), uuid[2], self._hex(uuid[3]), uuid[4], self._hex(uuid[5]))
            return b"".join(parts)  # version and variant stay
        if (padded := _PADDED.fullmatch(text)) is not None:
            return self._classes(padded[1]) + padded[2]
        pieces = _FIXED_TEXT.split(text)
        fixed = [*_FIXED_TEXT.findall(text), b""]
        return b"".join(
            self._classes(piece) + kept for piece, kept in zip(pieces, fixed, strict=True)
        )

    def _from(self, text: bytes, alphabet: bytes) -> bytes:
        return bytes(self._one_of(alphabet) for _ in text)

    def _hex(self, text: bytes) -> bytes:
        alphabet = _DIGITS + (b"ABCDEF" if text != text.lower() else b"abcdef")
        return bytes(one if one == ord("-") else self._one_of(alphabet) for one in text)

    def _base32(self, text: bytes) -> bytes:
        return self._classes(text, _BASE32_DIGITS)

    def _classes(self, text: bytes, digits: bytes = _DIGITS) -> bytes:
        """Return a random text with the same classes of characters."""
        return bytes(self._like(one, digits) for one in text)

    def _like(self, one: int, digits: bytes) -> int:
        for alphabet in (_LOWER, _UPPER):
            if one in alphabet:
                return self._one_of(alphabet)
        return self._one_of(digits) if one in _DIGITS else one

    def _unpadded(self, text: bytes) -> bytes:
        """Return a random base64url text; its last character stays if it has fewer than 6 bits."""
        if len(text) % 4 == 0:
            return self._classes(text)
        return self._classes(text[:-1]) + text[-1:]

    def _claims(self, encoded: bytes) -> bytes:
        claims = _decoded(encoded)
        if claims is None:
            return self._unpadded(encoded)
        made = _JSON_STRING.sub(self._claim, claims)
        return urlsafe_b64encode(made).rstrip(b"=")

    def _claim(self, match: re.Match[bytes]) -> bytes:
        if match[2] is not None:
            return match[0]
        pieces = _JSON_ESCAPE.split(match[1])
        pieces[::2] = map(self._classes, pieces[::2])
        return b"".join(pieces)

    def _checksummed(self, prefix: bytes, rest: bytes) -> bytes | None:
        """Return a token with a right checksum; None if the secret has no checksum."""
        body, given = rest[:-_CHECKSUM_LENGTH], rest[-_CHECKSUM_LENGTH:]
        for alphabet in _CHECKSUM_ALPHABETS:
            if _checksum(body, alphabet) == given:
                made = self._classes(body)
                return prefix + made + _checksum(made, alphabet)
        return None


_CHECKSUM_ALPHABETS: Final = (_BASE62, _DIGITS + _LOWER + _UPPER, _UPPER + _LOWER + _DIGITS)


def _checksum(body: bytes, alphabet: bytes) -> bytes:
    """Return the CRC-32 of a text as 6 digits to the base 62."""
    return bytes(reversed([*_digits(zlib.crc32(body), alphabet)]))


def _digits(number: int, alphabet: bytes) -> Iterator[int]:
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(alphabet))
        yield alphabet[digit]


def _prefix(secret: bytes) -> bytes:
    for prefix in PREFIXES:
        if secret.startswith(prefix) and len(secret) >= len(prefix) + MIN_SECRET:
            return prefix
    word = _SHORT_WORD.match(secret)
    return b"" if word is None else word[0]


def _is_json(encoded: bytes) -> bool:
    return _decoded(encoded) is not None


def _decoded(encoded: bytes) -> bytes | None:
    """Return a part of a JWT; None if it is no JSON object, or would not be encoded as it is."""
    try:
        text = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    canonical = urlsafe_b64encode(text).rstrip(b"=") == encoded
    return text if canonical and isinstance(value, dict) else None
