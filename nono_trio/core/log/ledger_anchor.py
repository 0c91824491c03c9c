"""One line of ledger-anchors.ndjson: that a command got a signed checkpoint, and its answer."""

from __future__ import annotations

from typing import Literal

import msgspec


class LedgerAnchor(msgspec.Struct, kw_only=True, frozen=True):
    """The checkpoint of `event_count` lines was on the stdin of `program` (its name only).

    `exit_code` is None if it was ended, or did not start; `reason` says why. `answer` is what it
    printed, base64: perhaps a receipt.
    """

    v: Literal[1] = 1
    time: str
    origin: str
    event_count: int
    program: str
    exit_code: int | None
    reason: str | None
    answer: str


_encoder = msgspec.json.Encoder()


def encode_ledger_anchor(anchor: LedgerAnchor) -> bytes:
    """Return one line, with its newline."""
    return _encoder.encode(anchor) + b"\n"
