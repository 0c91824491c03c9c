"""The public half of a signing key: Ed25519 for notes, ECDSA P-256 for upstream's bundle.

As text they are two PEM public keys, the notes' first, which is what `nono-trio keys export` prints
and `--public-key-file` takes. Rules of this file: no cryptography; both kinds of key have one
DER encoding, and no other is accepted.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

from nono_trio.core.proof import base64_text

_BEGIN: Final = "-----BEGIN PUBLIC KEY-----"
_END: Final = "-----END PUBLIC KEY-----"
# SubjectPublicKeyInfo before the bytes of the key: Ed25519, and an uncompressed point of P-256.
_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
MAX_PEM: Final = 64 * 1024


class PublicKeys(NamedTuple):
    """`note` is an Ed25519 key (32 bytes), `bundle` the DER SubjectPublicKeyInfo of a P-256 key."""

    note: bytes
    bundle: bytes

    @property
    def key_id(self) -> str:
        """The id of the pair, as upstream names a key: hex SHA-256 of the bundle's key."""
        return hashlib.sha256(self.bundle).hexdigest()

    def pem(self) -> str:
        """Return both keys in PEM, the notes' first."""
        return _pem(_ED25519 + self.note) + _pem(self.bundle)


def public_keys(der: list[bytes]) -> PublicKeys:
    """Return the pair of two SubjectPublicKeyInfo, in either order; raises ValueError."""
    notes = [one[len(_ED25519) :] for one in der if one.startswith(_ED25519)]
    bundles = [one for one in der if one.startswith(_P256)]
    if len(der) != 2 or len(notes) != 1 or len(bundles) != 1:
        raise ValueError("expected two public keys: one of Ed25519 and one of ECDSA P-256")
    if len(notes[0]) != 32 or len(bundles[0]) != len(_P256) + 64:
        raise ValueError("expected keys of 32 and of 65 bytes")
    return PublicKeys(notes[0], bundles[0])


def parse_public_keys(data: bytes) -> PublicKeys:
    """Return the pair in a file that `keys export` wrote; raises ValueError."""
    if len(data) > MAX_PEM:
        raise ValueError(f"expected at most {MAX_PEM} bytes")
    if not data.isascii():
        raise ValueError("expected public keys in PEM, got bytes that are not ASCII")
    text = data.decode()
    blocks = re.findall(f"{_BEGIN}\n([A-Za-z0-9+/=\n]*){_END}", text.replace("\r\n", "\n"))
    return public_keys([base64_text.decode(block.replace("\n", "")) for block in blocks])


def _pem(der: bytes) -> str:
    text = base64_text.encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([_BEGIN, *lines, _END, ""])
