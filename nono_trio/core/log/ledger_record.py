"""One line of ledger.ndjson: its fields, its bytes and its chain hash, all fixed by upstream.

Rules of this file: the hash covers every field but itself. The checks here need one line only;
audit/ledger.py checks how the lines follow each other.
"""

import hashlib

import msgspec

from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.record import NO_CHAIN

# The prefix of the session id in the line of a session that was removed on purpose.
REMOVED_PREFIX = "removed-"
# The prefix of the session id in the line of a session that came from another machine's archive.
IMPORTED_PREFIX = "imported-"
# The prefix of the id in the line about damaged lines that a repair cut off; it is followed by the
# beginning of their digest.
REPAIRED_PREFIX = "repaired-"


class LedgerRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One line of ledger.ndjson: a sealed session's digest, chained to the one before."""

    sequence: int
    prev_chain: str | None
    session_id: str
    session_digest: str
    completed_at: str
    chain_hash: str


class _LedgerEntry(msgspec.Struct, kw_only=True):
    """The part of a ledger line that its chain hash covers."""

    sequence: int
    session_id: str
    session_digest: str
    completed_at: str


_encoder = msgspec.json.Encoder()
_decoder = late_decoder(LedgerRecord)

_DOMAIN = b"nono.audit.ledger.chain.alpha\n"


def encode_ledger_record(record: LedgerRecord) -> bytes:
    """Return one line of ledger.ndjson, with its newline."""
    return _encoder.encode(record) + b"\n"


def decode_ledger_record(line: bytes) -> LedgerRecord:
    """Return the ledger record in one line; raises msgspec.DecodeError, UnicodeDecodeError."""
    return _decoder.decode(line)


def ledger_chain_hash(
    prev_chain: str | None, sequence: int, session_id: str, digest: str, completed: str
) -> str:
    """Return the chain hash of a ledger line (64 hex digits); ValueError if `prev_chain` is not
    hex."""
    entry = _LedgerEntry(
        sequence=sequence, session_id=session_id, session_digest=digest, completed_at=completed
    )
    before = bytes.fromhex(prev_chain) if prev_chain is not None else NO_CHAIN
    return hashlib.sha256(_DOMAIN + before + _encoder.encode(entry)).hexdigest()


def own_chain_hash(record: LedgerRecord) -> str:
    """Return the chain hash of the record's own fields; "" if `prev_chain` is not a hash."""
    if record.prev_chain is not None and not _is_hash(record.prev_chain):
        return ""
    return ledger_chain_hash(
        record.prev_chain,
        record.sequence,
        record.session_id,
        record.session_digest,
        record.completed_at,
    )


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def sound_record(line: bytes) -> LedgerRecord | None:
    """Return the record in a line, with or without newline, if its own hash fits; else None."""
    try:
        record = decode_ledger_record(line)
    except MALFORMED:
        return None
    return record if own_chain_hash(record) == record.chain_hash else None
