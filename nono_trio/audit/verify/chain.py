"""Checks one line of a log against the chain so far, and names the fault of a bad one.

Rules of this file: a line with exactly the bytes that we would write is good at once (that is every
line of our own logs). Any other line is parsed slowly, by upstream's rules, to find its first
fault. The two ways always agree about a hash: the quick way takes the payload's bytes out of the
line, wherever it supposes them, and builds the whole line from them alone.
Hostile JSON (duplicate keys, NaN, endless nesting, lone surrogates, `true` as a number) raises
BadRecord, never another exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec

from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED, decode_payload, encode_payload
from nono_trio.core.log.merkle import MerkleAccumulator
from nono_trio.core.log.record import EVENT_KEY, LINE_END, chain_hash, encode_line, leaf_hash

if TYPE_CHECKING:
    from nono_trio.core.log.events import Payload
    from nono_trio.core.proof.accumulator import TreeAccumulator
    from nono_trio.core.proof.tree import Frontier

MAX_U64 = 2**64 - 1
SHOWN_BYTES = 80  # of a bad line in a message: enough to recognise it

PARSE_ERROR = "parse error"
SEQUENCE_MISMATCH = "sequence mismatch"
PREV_CHAIN_MISMATCH = "prev_chain mismatch"
EVENT_JSON_MISMATCH = "event JSON mismatch"
LEAF_MISMATCH = "leaf hash mismatch"
CHAIN_MISMATCH = "chain hash mismatch"
NOT_CANONICAL = "record not canonical"


class BadRecord(Exception):
    """A line that is not the next record; `parsed` is False if it is not a record at all."""

    def __init__(self, failure: str, expected: object, got: object) -> None:
        super().__init__(failure)
        self.failure = failure
        self.expected = str(expected)
        self.got = str(got)

    @property
    def parsed(self) -> bool:
        """True if it is a record, but not the right one: a crash can't leave such a line."""
        return self.failure != PARSE_ERROR


class _Record(msgspec.Struct):
    """A whole line; unknown keys are ignored, like upstream ignores them."""

    sequence: int
    prev_chain: str | None
    leaf_hash: str
    chain_hash: str
    event: msgspec.Raw
    event_json: str | None = None


_record_decoder = late_decoder(_Record)


class Chain:
    """The state of a log after its last good record; feed it the lines in order.

    `strict` refuses every line that our writer would not have written, byte for byte (other key
    order, upper-case hex, a blank line, a missing newline). Without it, upstream's rules apply.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.count = 0
        self.head: bytes | None = None
        self.tree: TreeAccumulator = MerkleAccumulator()
        self.proof_tree: Frontier | None = None
        """The RFC 6962 tree, for a signed log."""

    def feed(self, line: bytes) -> Payload | None:
        """Check the next line; returns its payload, None for a blank line (not strict).

        Raises BadRecord; the state is then still that of the last good record.
        """
        if not self.strict and not line.strip():
            return None
        # No text in JSON has a quote after a comma: it would have a backslash before it.
        event_json = line[line.find(EVENT_KEY) + len(EVENT_KEY) : -len(LINE_END)]
        try:
            payload = decode_payload(event_json)
            if encode_payload(payload) != event_json:
                return self._feed_slowly(line)
        except MALFORMED:
            return self._feed_slowly(line)
        leaf = leaf_hash(event_json)
        chain = chain_hash(self.head, leaf)
        if line != encode_line(self.count, self.head, leaf, chain, event_json):
            return self._feed_slowly(line)
        return self._accept(leaf, chain, payload, event_json)

    def _accept(self, leaf: bytes, chain: bytes, payload: Payload, event_json: bytes) -> Payload:
        self.tree.append(leaf)
        if self.proof_tree is not None:
            self.proof_tree.add_data((event_json,))
        self.head = chain
        self.count += 1
        return payload

    def _feed_slowly(self, line: bytes) -> Payload:
        """Apply upstream's checks in upstream's order, so that the first difference is named."""
        if self.strict and not line.endswith(b"\n"):
            raise BadRecord(PARSE_ERROR, "a line that ends in a newline", shown(line))
        record = _parse(line)
        if record.sequence != self.count:
            raise BadRecord(SEQUENCE_MISMATCH, self.count, record.sequence)
        if hash_bytes(record.prev_chain) != self.head:
            raise BadRecord(PREV_CHAIN_MISMATCH, _hex(self.head), record.prev_chain or "null")
        event_json, payload = _canonical(record)
        leaf = leaf_hash(event_json)
        if hash_bytes(record.leaf_hash) != leaf:
            raise BadRecord(LEAF_MISMATCH, leaf.hex(), record.leaf_hash)
        chain = chain_hash(self.head, leaf)
        if hash_bytes(record.chain_hash) != chain:
            raise BadRecord(CHAIN_MISMATCH, chain.hex(), record.chain_hash)
        if self.strict:
            _refuse_other_spelling(
                encode_line(self.count, self.head, leaf, chain, event_json), line
            )
        return self._accept(leaf, chain, payload, event_json)


def _parse(line: bytes) -> _Record:
    import json  # late: our own records are compared with their spelling

    try:
        json.loads(line, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        record = _record_decoder.decode(line)
    except MALFORMED as error:
        raise BadRecord(PARSE_ERROR, f"a record ({_reason(error)})", shown(line)) from error
    if not 0 <= record.sequence <= MAX_U64:
        raise BadRecord(PARSE_ERROR, "a sequence of 64 bits", shown(line))
    if record.event_json is None:
        raise BadRecord(PARSE_ERROR, "a record with the hashed text in event_json", shown(line))
    return record


def _canonical(record: _Record) -> tuple[bytes, Payload]:
    """Return the hashed bytes and their payload, if `event` and `event_json` agree."""
    written = (record.event_json or "").encode()
    try:
        payload = decode_payload(record.event)
        encoded = encode_payload(payload)
    except MALFORMED as error:
        raise BadRecord(
            PARSE_ERROR, f"an event ({_reason(error)})", shown(bytes(record.event))
        ) from error
    if encoded != written:
        place = _first_difference(encoded, written)
        raise BadRecord(EVENT_JSON_MISMATCH, _around(encoded, place), _around(written, place))
    return written, payload


def _refuse_other_spelling(ours: bytes, line: bytes) -> None:
    if ours != line:
        place = _first_difference(ours, line)
        raise BadRecord(NOT_CANONICAL, _around(ours, place), _around(line, place))


def _without_duplicates(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("the same key twice")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def hash_bytes(text: str | None) -> bytes | None:
    """Return the 32 bytes of a hash in hex of either case; b"" for any other text, which equals no
    hash."""
    if text is None:
        return None
    try:
        return bytes.fromhex(text) if len(text) == 64 and text.isalnum() else b""
    except ValueError:
        return b""


def _hex(digest: bytes | None) -> str:
    return digest.hex() if digest is not None else "null"


def _reason(error: BaseException) -> str:
    """Return the reason of a JSON error; a decode error's own text would repeat the whole line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return str(error).partition(" - at ")[0] or type(error).__name__


def _first_difference(one: bytes, other: bytes) -> int:
    same = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(same) if a != b), min(len(one), len(other)))


def _around(text: bytes, place: int) -> str:
    """Return the text around `place`."""
    start = max(0, place - SHOWN_BYTES // 4)
    return f"at byte {place}: {shown(text[start:])}"


def shown(text: bytes) -> str:
    """Return the beginning of a bad line for a message; it is untrusted text."""
    cut = text[:SHOWN_BYTES].rstrip(b"\n").decode("utf-8", "replace")
    return cut + ("…" if len(text) > SHOWN_BYTES else "") if cut else "a blank line"
