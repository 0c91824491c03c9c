"""The check of one signature; cryptography is imported by the first check."""

from __future__ import annotations


def is_ed25519(key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether `signature` over `data` is one of an Ed25519 key (32 bytes)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


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
