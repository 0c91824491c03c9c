"""Signed notes (C2SP): a text and lines with signatures, as Go's sumdb/note reads them.

    TEXT, which ends in a newline
    (an empty line)
    — NAME base64(key id, 4 bytes || signature)

Rules of this file: it does no cryptography, and knows two types of keys, both Ed25519: those that
sign a note, and those of witnesses. A note is parsed strictly: one spelling, UTF-8, no control
character but the newline. Lines of unknown signers are kept, as the format asks.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from nono_trio.core.proof import base64_text

# Far over any note of ours; a reader must accept at least 16 signatures.
MAX_NOTE: Final = 64 * 1024
MAX_SIGNATURES: Final = 100

_MARK: Final = "— "
# The type of a key, which its id covers.
ED25519: Final = b"\x01"
COSIGNATURE: Final = b"\x04"  # cosignature/v1: over a note and a time
_TYPES: Final = {
    ED25519: "an Ed25519 key",
    COSIGNATURE: "an Ed25519 key for cosignature/v1",
}
_KEY_ID_BYTES: Final = 4


class Signature(NamedTuple):
    """One line of signatures: who signed, with which key (4 bytes), and the signature itself."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A text with its signatures; `text` ends in a newline and is what they cover, in UTF-8."""

    text: str
    signatures: tuple[Signature, ...]

    def signature_of(self, name: str, key: bytes) -> bytes | None:
        """Return the signature of an Ed25519 key (32 bytes) under `name`, unverified."""
        wanted = (name, key_id(name, key))
        found = (one for one in self.signatures if (one.name, one.key_id) == wanted)
        return next((one.signature for one in found), None)


def is_name(name: str) -> bool:
    """Return whether a text can name a key: no space, no plus, no control character."""
    return bool(name) and not any(c.isspace() or c == "+" or ord(c) < 0x20 for c in name)


def key_id(name: str, key: bytes, kind: bytes = ED25519) -> bytes:
    """Return the id of an Ed25519 key (32 bytes) under its name: 4 bytes."""
    return hashlib.sha256(name.encode() + b"\n" + kind + key).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, key: bytes, kind: bytes = ED25519) -> str:
    """Return the text from which standard tools make a verifier: NAME+HEXID+BASE64."""
    return f"{name}+{key_id(name, key, kind).hex()}+{base64_text.encode(kind + key)}"


def parse_verifier_key(text: str, kind: bytes = ED25519) -> tuple[str, bytes]:
    """Return name and Ed25519 key of a verifier key; raises ValueError."""
    name, _, rest = text.partition("+")
    hex_id, _, encoded = rest.partition("+")
    key = base64_text.decode(encoded)
    if not is_name(name) or key[:1] != kind or len(key) != 33:
        raise ValueError(f"expected NAME+ID+KEY of {_TYPES[kind]}")
    if key_id(name, key[1:], kind).hex() != hex_id:
        raise ValueError("the id of the key is that of another key or name")
    return name, key[1:]


def encode_note(text: str, signatures: list[Signature]) -> str:
    """Return a note; `text` must end in a newline."""
    lines = (
        f"{_MARK}{one.name} {base64_text.encode(one.key_id + one.signature)}\n"
        for one in signatures
    )
    return f"{text}\n{''.join(lines)}"


def parse_note(data: bytes) -> Note:
    """Return the note in `data`, all of which must be the note; raises ValueError."""
    if len(data) > MAX_NOTE:
        raise ValueError(f"expected at most {MAX_NOTE} bytes")
    decoded = data.decode()  # UnicodeDecodeError is a ValueError
    if any(ord(c) < 0x20 and c != "\n" for c in decoded):
        raise ValueError("a control character")
    text, separator, rest = decoded.rpartition("\n\n")
    if not separator or not rest.endswith("\n"):
        raise ValueError("expected a text, an empty line, and lines of signatures")
    lines = rest[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise ValueError(f"expected at most {MAX_SIGNATURES} signatures")
    signatures = tuple(map(_parse_line, lines))
    if len({one[:2] for one in signatures}) != len(signatures):
        raise ValueError("two signatures of one key")
    return Note(f"{text}\n", signatures)


def _parse_line(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not is_name(name):
        raise ValueError("expected a line with a signature")
    data = base64_text.decode(encoded)
    if len(data) <= _KEY_ID_BYTES:
        raise ValueError("expected a key id and a signature")
    return Signature(name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])
