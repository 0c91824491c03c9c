"""The check of one signature, and of a note; cryptography is imported by the first check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nono_trio.core.proof.note import Note

KEY_MISMATCH: Final = "key mismatch"
SIGNATURE_MISMATCH: Final = "signature mismatch"


def is_ed25519(key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether `signature` over `data` is one of an Ed25519 key (32 bytes)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def note_fault(note: Note, name: str, key: bytes) -> tuple[str, str, str] | None:
    """Return class, expected and got unless an Ed25519 key (32 bytes) has signed a note under
    `name`."""
    signature = note.signature_of(name, key)
    if signature is None:
        from nono_trio.core.proof.note import key_id

        theirs = ", ".join(f"{one.name}+{one.key_id.hex()}" for one in note.signatures)
        return KEY_MISMATCH, f"{name}+{key_id(name, key).hex()}", theirs
    if not is_ed25519(key, signature, note.text.encode()):
        return SIGNATURE_MISMATCH, "a signature of the note", "another"
    return None


def is_p256(key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether `signature` (DER) over SHA-256 of `data` is one of a P-256 key (DER SPKI)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        loaded = serialization.load_der_public_key(key)
        if not isinstance(loaded, ec.EllipticCurvePublicKey):
            return False
        loaded.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
