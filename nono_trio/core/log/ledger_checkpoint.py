"""One line of ledger-checkpoints.ndjson: a signed checkpoint of the ledger, under one key.

Rules of this file: it does no cryptography. `note` is a C2SP signed note about the RFC 6962 tree
whose leaves are the ledger's lines without their newlines. Lines of several keys may follow each
other; each names its own, and the origin in its note follows from it.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.late import late_decoder


class LedgerCheckpoint(msgspec.Struct, kw_only=True, frozen=True):
    """The first `event_count` lines of the ledger, signed.

    `key` is the Ed25519 public key (base64), `line_signature` its signature over `signed_line`.
    """

    v: Literal[1] = 1
    time: str
    event_count: int
    key: str
    note: str
    line_signature: str | UnsetType = UNSET


_encoder = msgspec.json.Encoder()
_decoder = late_decoder(LedgerCheckpoint)


def encode_ledger_checkpoint(checkpoint: LedgerCheckpoint) -> bytes:
    """Return one line, with its newline."""
    return _encoder.encode(checkpoint) + b"\n"


def decode_ledger_checkpoint(line: bytes) -> LedgerCheckpoint:
    """Return the checkpoint in one line; raises msgspec.DecodeError, UnicodeDecodeError."""
    return _decoder.decode(line)


def signed_line(checkpoint: LedgerCheckpoint) -> bytes:
    """Return what `line_signature` covers: the line without that field and without its newline."""
    return _encoder.encode(msgspec.structs.replace(checkpoint, line_signature=UNSET))
