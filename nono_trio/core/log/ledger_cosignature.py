"""One line of ledger-cosignatures.ndjson: what a witness answered to a checkpoint of the ledger."""

from __future__ import annotations

from typing import Literal

import msgspec

from nono_trio.core.late import late_decoder


class LedgerCosignature(msgspec.Struct, kw_only=True, frozen=True):
    """`outcome` is `cosigned`, `conflict` (the witness has seen another ledger) or `failed`.

    `note` is the checkpoint, with the lines of the witness if it has cosigned. `verified`: one of
    them is by the key that the user gave. `reason` says what else happened.
    """

    v: Literal[1] = 1
    time: str
    witness: str
    origin: str
    event_count: int
    outcome: Literal["cosigned", "conflict", "failed"]
    verified: bool = False
    reason: str | None = None
    note: str


_encoder = msgspec.json.Encoder()
_decoder = late_decoder(LedgerCosignature)


def encode_ledger_cosignature(line: LedgerCosignature) -> bytes:
    """Return one line, with its newline."""
    return _encoder.encode(line) + b"\n"


def decode_ledger_cosignature(line: bytes) -> LedgerCosignature:
    """Return the content of a line; raises msgspec.DecodeError, UnicodeDecodeError."""
    return _decoder.decode(line)
