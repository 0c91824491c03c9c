"""Checks one part of a log alone, and gives what the joiner needs for the part after it.

Rules of this file: a part takes its place and its first chain hash from its own first record; the
joiner proves that they are the end of the part before. A part is good, or it has no answer: only
the one pass of log_check.py names faults, so there is one way to be wrong. Only logs under our
own rules, whose lines have exactly our bytes, are checked in parts. Time and memory follow from the
size of a part, whatever its bytes are.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import Final

import msgspec

from nono_trio.audit.verify.chain import hash_bytes
from nono_trio.core.late import late_decoder
from nono_trio.core.log import merkle
from nono_trio.core.log.events import (
    MALFORMED,
    Network,
    SessionEnded,
    decode_payload,
    encode_payload,
)
from nono_trio.core.log.nono_events import CapabilityDecision
from nono_trio.core.log.record import (
    EVENT_KEY,
    LINE_END,
    STRING_KEY,
    chain_hashes,
    encode_lines,
    encode_string,
    leaf_hashes,
)
from nono_trio.core.proof import tree
from nono_trio.core.proof.accumulator import subtrees

PART_BYTES: Final = 1024 * 1024  # some 1,400 records: 5 ms of work
LEAST_PART_BYTES: Final = 128 * 1024
BLOCK_BYTES: Final = 64 * 1024  # a processor's cache has room for it, and for what is made of it
MAX_PART_LINE: Final = 1024 * 1024  # a longer line is left to the one pass
MAX_MARKS: Final = 1000  # so that a request fits into a socket's buffer

# A network event begins with its time, and nothing is counted by that.
_NETWORK: Final = b'{"type":"network","event":{"timestamp_unix_ms":'
_TIME_AT: Final = len(_NETWORK)
_TIME_END: Final = _TIME_AT + 13  # the digits from 2001 to 2286; others are read as any payload is
_SHORT: Final = 2048
_NETWORK_STRING: Final = encode_string(_NETWORK)[:-1]
_BEFORE_TIME: Final = STRING_KEY + _NETWORK_STRING


class Part(msgspec.Struct, array_like=True, frozen=True):
    """The bytes from `begin` to `end`, whole lines; `marks` are the offsets of the checkpoints in
    it, ascending; `signed`: the log has an RFC 6962 tree as well; `with_events`: its network events
    are wanted one by one."""

    begin: int
    end: int
    marks: list[int]
    signed: bool = False
    with_events: bool = False


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """The state of the log at `offset`, the end of a record: its number of records and chain hash,
    and the subtrees (level, root) of the records since the previous mark, in upstream's tree and in
    that of RFC 6962 (of a signed log)."""

    offset: int
    count: int
    head: bytes
    subtrees: list[tuple[int, bytes]]
    proof_subtrees: list[tuple[int, bytes]]


class GoodPart(msgspec.Struct, array_like=True, frozen=True):
    """A part with good lines, if the log before it has `first` records and the chain hash `prev`.

    The last mark is the end of the part. `kinds` are the different payloads that are counted, as
    canonical JSON without their times; `order` has the place in `kinds` of each counted record, as
    an array of unsigned shorts. `events` are its network events in order, if they are wanted.
    `last` are the last two payloads; `ended`: the last one is session_ended.
    """

    first: int
    prev: bytes
    marks: list[Mark]
    kinds: list[bytes]
    order: bytes
    network_count: int
    events: list[bytes]
    last: list[bytes]
    ended: bool


class _Place(msgspec.Struct):
    """The place of a record by its own fields."""

    sequence: int
    prev_chain: str


_place_decoder = late_decoder(_Place)


class _Reader:
    """Reads the lines of a part, and collects what is counted. A line is good if it has exactly the
    bytes that we would write for its payload, as in chain.py.

    Most network events differ in their times only. So the rest of each different one is proved to
    be canonical JSON once, and looked up after that. What is kept beyond a part is short.
    """

    def __init__(self, data: bytes, count: int, head: bytes) -> None:
        self.count = count
        self.head = head
        self.kinds: list[bytes] = []
        self.order = array("H")
        self.file_count = 0
        self.ended = False
        self._data = data
        # By the bytes of a network event after its time: its place in `kinds`, and what a line has
        # after the time in the string, and after the other one.
        self._known: dict[bytes, tuple[int, bytes, bytes]] = {}

    def read(self, begin: int, end: int) -> tuple[list[bytes], list[bytes]]:
        """Read the lines from `begin` to `end`; return their payloads and leaves.

        Raises ValueError or another of MALFORMED for lines that are not good.
        """
        texts, leaves = list[bytes](), list[bytes]()
        while begin < end:
            block_end = self._data.rfind(b"\n", begin, min(begin + BLOCK_BYTES, end)) + 1
            if not block_end:
                block_end = self._data.index(b"\n", begin, end) + 1
            self._read_block(begin, block_end, texts, leaves)
            begin = block_end
        return texts, leaves

    def _read_block(
        self, begin: int, end: int, all_texts: list[bytes], all_leaves: list[bytes]
    ) -> None:
        """Read the lines of one block; add their payloads and leaves."""
        texts, pieces = self._take_payloads(begin, end)
        leaves = leaf_hashes(texts)
        chains = chain_hashes(self.head, leaves)
        lines = encode_lines(self.count, chains, leaves, pieces)
        # No piece has a newline but the last one of a line: the lines are equal one by one.
        if len(lines) != end - begin or not self._data.startswith(lines, begin):
            raise ValueError("expected the lines that we would write for these payloads")
        self.count, self.head = self.count + len(texts), chains[-1]
        all_texts += texts
        all_leaves += leaves

    def _take_payloads(self, begin: int, end: int) -> tuple[list[bytes], list[bytes]]:
        """Return the payloads of lines, and the pieces that a line has of each (record.py); raises
        one of MALFORMED for a payload that is not canonical."""
        data, known = self._data, self._known
        texts, pieces, counted = list[bytes](), list[bytes](), self.order.append
        while begin < end:
            newline = data.index(b"\n", begin, end)
            event = data.rfind(_NETWORK, begin, newline)
            time = data[event + _TIME_AT : event + _TIME_END]
            rest = data[event + _TIME_END : newline - 1]
            kind = None
            if event > 0 and time.isdigit() and time >= b"1":  # it is written in one way only
                kind = known.get(rest) or self._new_kind(rest)
            if kind is not None:
                place, middle, last = kind
                counted(place)
                texts.append(data[event : newline - 1])
                pieces.extend((_BEFORE_TIME, time, middle, time, last))
            else:
                text = data[data.find(EVENT_KEY, begin, newline) + len(EVENT_KEY) : newline - 1]
                string = self._read_other(text, is_last=newline + 1 == len(data))
                texts.append(text)
                pieces.extend((STRING_KEY, string, EVENT_KEY, text, LINE_END))
            begin = newline + 1
        return texts, pieces

    def _new_kind(self, rest: bytes) -> tuple[int, bytes, bytes] | None:
        """Take the bytes of a network event after its time, which this part did not have yet; None
        if the time has more digits."""
        if not rest.startswith(b","):
            return None
        prove = _rest_in_string if len(rest) <= _SHORT else _rest_in_string.__wrapped__
        middle = prove(rest) + EVENT_KEY + _NETWORK
        kind = self._known[rest] = len(self.kinds), middle, rest + LINE_END
        self.kinds.append(_NETWORK + b"0" + rest)
        return kind

    def _read_other(self, text: bytes, *, is_last: bool) -> bytes:
        """Read any other payload; return it in a string."""
        payload = decode_payload(text)
        if encode_payload(payload) != text:
            raise ValueError("expected canonical JSON")
        if isinstance(payload, Network):
            self._count(text)
        elif isinstance(payload, CapabilityDecision):
            self._count(text)
            self.file_count += 1
        elif isinstance(payload, SessionEnded):
            if not is_last:
                raise ValueError("expected nothing after session_ended")
            self.ended = True
        return encode_string(text)

    def _count(self, kind: bytes) -> None:
        self.order.append(len(self.kinds))
        self.kinds.append(kind)


@lru_cache(maxsize=1024)
def _rest_in_string(rest: bytes) -> bytes:
    """Return the bytes of a network event after its time, escaped for a JSON string.

    Raises ValueError or another of MALFORMED if they are not canonical.
    """
    text = _NETWORK + b"0" + rest
    if encode_payload(decode_payload(text)) != text:
        raise ValueError("expected canonical JSON")
    return encode_string(text)[len(_NETWORK_STRING) + 1 :]


def check_part(data: bytes, part: Part) -> GoodPart | None:
    """Check the bytes of a part; None if they are not all good. Raises nothing for its bytes."""
    if len(data) != part.end - part.begin or not data.endswith(b"\n"):
        return None
    try:
        return _check(data, part)
    except MALFORMED:
        return None


def _check(data: bytes, part: Part) -> GoodPart:
    """Check the bytes of a part; raises one of MALFORMED."""
    first, prev = _claimed_place(data, part.begin)
    reader, marks, begin = _Reader(data, first, prev), list[Mark](), 0
    events, last = list[bytes](), list[bytes]()
    for offset in dict.fromkeys((*part.marks, part.end)):
        count, end = reader.count, offset - part.begin
        texts, leaves = reader.read(begin, end)
        marks.append(
            Mark(
                offset,
                reader.count,
                reader.head,
                subtrees(count, leaves, merkle.node_hash),
                subtrees(count, list(map(tree.leaf_hash, texts)), tree.node_hash)
                if part.signed
                else [],
            )
        )
        if part.with_events:
            events += [text for text in texts if text.startswith(_NETWORK)]
        last, begin = [*last, *texts[-2:]][-2:], end
    return GoodPart(
        first=first,
        prev=prev,
        marks=marks,
        kinds=reader.kinds,
        order=reader.order.tobytes(),
        network_count=len(reader.order) - reader.file_count,
        events=events,
        last=last,
        ended=reader.ended,
    )


def _claimed_place(data: bytes, begin: int) -> tuple[int, bytes]:
    """Return what the first record says of its own place; raises one of MALFORMED.

    A record has more than one byte, so fewer than `begin` are before it. An answer of a worker must
    not have numbers over 64 bits.
    """
    place = _place_decoder.decode(data[: data.index(b"\n") + 1])
    prev = hash_bytes(place.prev_chain)
    if not prev or not 0 < place.sequence < begin:
        raise ValueError("expected the place of a record in the middle of a log")
    return place.sequence, prev
