"""Base 64 (RFC 4648, section 4) with one spelling for each value, as proofs are written with it."""

from __future__ import annotations

import base64
import binascii


def encode(data: bytes) -> str:
    """Return the text of `data`, with padding."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of a text; raises ValueError for any text that `encode` does not give."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("expected base64") from error
    if encode(data) != text:  # unused bits are set, or padding is missing
        raise ValueError("expected base64 in its shortest spelling")
    return data


def decode_hash(text: str) -> bytes:
    """Return the 32 bytes of a hash; raises ValueError."""
    data = decode(text)
    if len(data) != 32:
        raise ValueError(f"expected a hash of 32 bytes, got {len(data)}")
    return data
