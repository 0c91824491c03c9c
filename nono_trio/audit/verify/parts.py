"""Checks one part of a log alone, and gives what the joiner needs for the part after it.

Rules of this file: a part takes its place and its first chain hash from its own first record; the
joiner proves that they are the end of the part before. A part is good, or it has no answer: only
the one pass of log_check.py names faults, so there is one way to be wrong. Only logs under our
own rules, whose lines have exactly our bytes, are checked in parts. Time and memory follow from the
size of a part, whatever its bytes are.
"""

from __future__ import annotations

from array import array
from io import BytesIO
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.audit.verify.chain import MAX_U64, BadRecord, Chain, hash_bytes
from nono_trio.core.log import merkle
from nono_trio.core.log.events import MALFORMED, Network, SessionEnded, encode_payload
from nono_trio.core.log.nono_events import CapabilityDecision
from nono_trio.core.proof import tree
from nono_trio.core.proof.accumulator import MerkleRange

if TYPE_CHECKING:
    from nono_trio.core.log.events import Payload

PART_BYTES: Final = 1024 * 1024  # some 1,400 records: 5 ms of work
MAX_PART_LINE: Final = 1024 * 1024  # a longer line is left to the one pass
MAX_MARKS: Final = 1000  # so that a request fits into a socket's buffer

# A network event begins with its time, and nothing is counted by that. The quotes are never escaped
# here, so no text inside a record has these bytes.
_NETWORK_BEGIN: Final = b'{"type":"network","event":{"timestamp_unix_ms":0'
_NETWORK_MARK: Final = b'"event":{"timestamp_unix_ms":'


class Part(msgspec.Struct, array_like=True, frozen=True):
    """The bytes from `begin` to `end`, whole lines; `marks` are the offsets of the checkpoints in
    it, ascending; `signed`: the log has an RFC 6962 tree as well."""

    begin: int
    end: int
    marks: list[int]
    signed: bool = False


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
    an array of unsigned shorts. `last` are the last two payloads; `ended`: the last one is
    session_ended.
    """

    first: int
    prev: bytes
    marks: list[Mark]
    kinds: list[bytes]
    order: bytes
    network_count: int
    last: list[bytes]
    ended: bool


class _Place(msgspec.Struct):
    """The place of a record by its own fields."""

    sequence: int
    prev_chain: str


_place_decoder = msgspec.json.Decoder(_Place)


class _PartChain(Chain):
    """The chain from the middle of a log on: the subtrees are kept, the root is not known."""

    def __init__(self, first: int, prev: bytes, *, signed: bool) -> None:
        super().__init__(strict=True)
        self.count = first
        self.head = prev
        self._range = MerkleRange(first, merkle.node_hash)
        self._proof_range = MerkleRange(first, tree.node_hash)
        self.tree = _Forwarded(self._range)
        if signed:
            self.proof_tree = _Forwarded(self._proof_range)

    def mark(self, offset: int) -> Mark:
        """Return the state here, with the subtrees since the last call."""
        taken = self._range.take(), self._proof_range.take()
        return Mark(offset, self.count, self.head or b"", *taken)


class _Forwarded(tree.Frontier):
    """Gives the leaves of either tree on to a range."""

    __slots__ = ("append",)

    def __init__(self, to: MerkleRange) -> None:
        super().__init__()
        self.append = to.append  # type: ignore[method-assign]


class _Counted:
    """The payloads of a part that are counted, each different one once."""

    def __init__(self) -> None:
        self.places: dict[bytes, int] = {}
        self.kinds: list[bytes] = []
        self.order = array("H")
        self.network_count = 0

    def add(self, line: bytes, payload: Payload) -> None:
        """Add a record with the line's bytes; records without counts are left out."""
        if isinstance(payload, Network):
            self.network_count += 1
            key = line[line.index(b",", line.rfind(_NETWORK_MARK) + len(_NETWORK_MARK)) :]
            place = self.places.get(key)
            if place is None:
                place = self.places[key] = len(self.kinds)
                self.kinds.append(_NETWORK_BEGIN + key[:-2])  # without `}` and the newline
            self.order.append(place)
        elif isinstance(payload, CapabilityDecision):
            self.order.append(len(self.kinds))
            self.kinds.append(encode_payload(payload))


def check_part(data: bytes, part: Part) -> GoodPart | None:
    """Check the bytes of a part; None if they are not all good. Raises nothing for its bytes."""
    if len(data) != part.end - part.begin or not data.endswith(b"\n"):
        return None
    try:
        return _check(data, part)
    except (BadRecord, *MALFORMED):
        return None


def _check(data: bytes, part: Part) -> GoodPart | None:
    first, prev = _claimed_place(data)
    chain, counted, marks = _PartChain(first, prev, signed=part.signed), _Counted(), []
    due = iter(part.marks)
    next_mark = next(due, part.end)
    offset, before, last = part.begin, None, None
    feed, count = chain.feed, counted.add
    for line in BytesIO(data):
        payload = feed(line)
        if payload is None or isinstance(last, SessionEnded):
            return None
        count(line, payload)
        before, last = last, payload
        offset += len(line)
        if offset >= next_mark:
            marks.append(chain.mark(offset))
            next_mark = next(due, part.end)
    if marks[-1].offset != part.end:
        marks.append(chain.mark(offset))
    return GoodPart(
        first=first,
        prev=prev,
        marks=marks,
        kinds=counted.kinds,
        order=counted.order.tobytes(),
        network_count=counted.network_count,
        last=[encode_payload(one) for one in (before, last) if one is not None],
        ended=isinstance(last, SessionEnded),
    )


def _claimed_place(data: bytes) -> tuple[int, bytes]:
    """Return what the first record says of its own place; raises BadRecord, MALFORMED."""
    place = _place_decoder.decode(data[: data.index(b"\n") + 1])
    prev = hash_bytes(place.prev_chain)
    if not prev or not 0 < place.sequence <= MAX_U64:
        raise ValueError("expected the place of a record in the middle of a log")
    return place.sequence, prev
