"""A record of the log: all code that decides its bytes and its hashes.

    leaf  = SHA-256("nono.audit.event.alpha\n" || event_json)
    chain = SHA-256("nono.audit.chain.alpha\n" || previous chain, 32 bytes || leaf, 32 bytes)

Scheme "alpha" of upstream nono. The line is joined from bytes; no object is encoded. It contains
the payload twice, as the string that was hashed and as the object. Both come from the same bytes,
so they can't disagree.
"""

from __future__ import annotations

import hashlib
from binascii import hexlify
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.log.events import Payload  # noqa: TC001  (for msgspec)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NO_CHAIN = bytes(32)  # the chain before the first record

# A hash object that has read the prefix already; a copy is faster than hashing the prefix again.
_leaf_prefix = hashlib.sha256(b"nono.audit.event.alpha\n")
_chain_prefix = hashlib.sha256(b"nono.audit.chain.alpha\n")
_encode_string = msgspec.json.Encoder().encode

# A line, made of: the sequence, three hashes in hex, the payload as a JSON string, and the payload.
LINE: Final = (
    b'{"sequence":%d,"prev_chain":"%b","leaf_hash":"%b","chain_hash":"%b"'
    b',"event_json":%b,"event":%b}\n'
)
_FIRST_LINE: Final = LINE.replace(b'"%b"', b"null", 1)
# The constant pieces of a line, between those that differ.
_START, _PREV, _LEAF, _CHAIN, STRING_KEY, EVENT_KEY, LINE_END = LINE.replace(b"%d", b"%b").split(
    b"%b"
)
PAYLOAD_PIECES: Final = 5
_PIECES: Final = 6 + PAYLOAD_PIECES


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """One line of the log; `event` is the object whose canonical JSON is `event_json`.

    This is the published form. The writer joins a line from bytes (`encode_line`), and a verifier
    compares bytes.
    """

    sequence: int
    prev_chain: str | None
    leaf_hash: str
    chain_hash: str
    event_json: str
    event: Payload


def leaf_hash(event_json: bytes) -> bytes:
    """Return the leaf (32 bytes) of the payload whose canonical JSON is `event_json`."""
    hasher = _leaf_prefix.copy()
    hasher.update(event_json)
    return hasher.digest()


def chain_hash(prev: bytes | None, leaf: bytes) -> bytes:
    """Return the chain (32 bytes) after `leaf`; `prev` is the chain before it (None: no record)."""
    hasher = _chain_prefix.copy()
    hasher.update((prev or NO_CHAIN) + leaf)
    return hasher.digest()


def leaf_hashes(payloads: Iterable[bytes]) -> list[bytes]:
    """Return the leaf of each payload, as `leaf_hash` does."""
    copy, leaves = _leaf_prefix.copy, list[bytes]()
    for event_json in payloads:
        hasher = copy()
        hasher.update(event_json)
        leaves.append(hasher.digest())
    return leaves


def chain_hashes(prev: bytes, leaves: Iterable[bytes]) -> list[bytes]:
    """Return the chain before records with these leaves, `prev`, and that after each."""
    copy, chains = _chain_prefix.copy, [prev]
    for leaf in leaves:
        hasher = copy()
        hasher.update(prev + leaf)
        prev = hasher.digest()
        chains.append(prev)
    return chains


def encode_string(event_json: bytes) -> bytes:
    """Return a payload as a JSON string; `event_json` must be valid UTF-8."""
    return _encode_string(event_json.decode())


def encode_line(
    sequence: int, prev: bytes | None, leaf: bytes, chain: bytes, event_json: bytes
) -> bytes:
    """Return the canonical line of a record with its newline; `event_json` must be valid UTF-8."""
    string = _encode_string(event_json.decode())
    if prev is None:
        return _FIRST_LINE % (sequence, hexlify(leaf), hexlify(chain), string, event_json)
    return LINE % (sequence, hexlify(prev), hexlify(leaf), hexlify(chain), string, event_json)


def encode_lines(
    sequence: int, chains: Sequence[bytes], leaves: Sequence[bytes], payloads: Sequence[bytes]
) -> bytes:
    """Return the canonical lines of records that follow another one, from `sequence` on, as one.

    `chains` is that of `chain_hashes`. `payloads` has PAYLOAD_PIECES pieces a record: joined, they
    are STRING_KEY, the payload as a JSON string, EVENT_KEY, the payload, LINE_END. It takes half of
    the time of `encode_line` for each.
    """
    count, in_hex = len(leaves), list(map(hexlify, chains))
    pieces = [b""] * (_PIECES * count)
    start = _START + b"%d" + _PREV
    pieces[0::_PIECES] = [start % number for number in range(sequence, sequence + count)]
    pieces[1::_PIECES] = in_hex[:-1]
    pieces[2::_PIECES] = [_LEAF] * count
    pieces[3::_PIECES] = map(hexlify, leaves)
    pieces[4::_PIECES] = [_CHAIN] * count
    pieces[5::_PIECES] = in_hex[1:]
    for place in range(PAYLOAD_PIECES):
        pieces[6 + place :: _PIECES] = payloads[place::PAYLOAD_PIECES]
    return b"".join(pieces)


def encode_record(
    sequence: int, prev: bytes | None, event_json: bytes
) -> tuple[bytes, bytes, bytes]:
    """Return a new record as (line with newline, leaf, chain); `prev` is the chain before it."""
    leaf = leaf_hash(event_json)
    chain = chain_hash(prev, leaf)
    return encode_line(sequence, prev, leaf, chain, event_json), leaf, chain


def encode_records(
    sequence: int, prev: bytes | None, payloads: Sequence[bytes]
) -> tuple[bytes, list[bytes], bytes | None]:
    """Return new records as (all lines, leaves, the chain after them); `sequence` is of the first.

    They are those of `encode_record` for each, at a lower cost.
    """
    leaves = leaf_hashes(payloads)
    chains = chain_hashes(prev or NO_CHAIN, leaves)
    numbers = range(sequence, sequence + len(leaves))
    lines = map(encode_line, numbers, [prev, *chains[1:]], leaves, chains[1:], payloads)
    return b"".join(lines), leaves, chains[-1] if leaves else prev
