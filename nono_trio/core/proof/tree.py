"""The Merkle tree of RFC 6962 over the records of a log, with both kinds of its proofs.

    leaf = SHA-256(0x00 || data)        node = SHA-256(0x01 || left || right)

The data of a record is its `event_json`. An odd last node is carried up unchanged; the empty tree
is SHA-256 of nothing. This is the tree of signed checkpoints, which standard tools verify;
core/log/merkle.py has upstream's, with the same shape and another node hash. Rules of this file: a
check uses only what it is given, refuses a proof with one hash too many or too few, and raises
nothing for a wrong one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.core.proof.accumulator import TreeAccumulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A proof of a tree of 2**63 leaves has no more hashes.
MAX_HASHES: Final = 63

# A copy of a hasher costs half of a new one.
_leaf_prefix = hashlib.sha256(b"\0")
_node_prefix = hashlib.sha256(b"\x01")


class Leaves(Protocol):
    """A row of leaf hashes."""

    def __len__(self) -> int:
        """The number of leaves."""
        ...

    def __getitem__(self, place: int, /) -> bytes:
        """The leaf at a place: 32 bytes."""
        ...


def leaf_hash(data: bytes) -> bytes:
    """Return the leaf of one record's data: 32 bytes."""
    hasher = _leaf_prefix.copy()
    hasher.update(data)
    return hasher.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes: 32 bytes."""
    hasher = _node_prefix.copy()
    hasher.update(left + right)
    return hasher.digest()


class Frontier(TreeAccumulator):
    """The root of a growing list of leaves."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(node_hash)

    def add_data(self, records: Iterable[bytes]) -> None:
        """Add the leaves of records, given by their data, in order."""
        self.extend(map(leaf_hash, records))


def tree_root(leaves: Leaves, start: int = 0, end: int | None = None) -> bytes:
    """Return the root over `leaves[start:end]`."""
    frontier = Frontier()
    for place in range(start, len(leaves) if end is None else end):
        frontier.append(leaves[place])
    return frontier.root()


def prove_inclusion(leaves: Leaves, index: int, size: int) -> list[bytes]:
    """Return the siblings of leaf `index` in the tree of the first `size` leaves, leaf to root.

    Raises IndexError if there is no such leaf.
    """
    if not 0 <= index < size <= len(leaves):
        raise IndexError(f"expected a leaf below {min(size, len(leaves))}, got {index}")
    start, end, siblings = 0, size, list[bytes]()
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            siblings.append(tree_root(leaves, middle, end))
            end = middle
        else:
            siblings.append(tree_root(leaves, start, middle))
            start = middle
    return siblings[::-1]


def includes(leaf: bytes, index: int, size: int, siblings: Sequence[bytes], root: bytes) -> bool:
    """Return whether `siblings` prove that `leaf` is at `index` in the tree with this root."""
    if not 0 <= index < size or len(siblings) > MAX_HASHES:
        return False
    node, last = leaf, size - 1
    for sibling in siblings:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:  # levels at which the node was carried up
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and node == root


def prove_consistency(leaves: Leaves, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is the beginning of that of `new` leaves.

    Raises IndexError unless 0 < old <= new <= len(leaves).
    """
    if not 0 < old <= new <= len(leaves):
        raise IndexError(f"expected sizes from 1 to {len(leaves)}, got {old} and {new}")
    start, end, is_whole, hashes = 0, new, True, list[bytes]()
    while old - start != end - start:
        middle = start + _split(end - start)
        if old <= middle:
            hashes.append(tree_root(leaves, middle, end))
            end = middle
        else:
            hashes.append(tree_root(leaves, start, middle))
            start, is_whole = middle, False
    if not is_whole:
        hashes.append(tree_root(leaves, start, end))
    return hashes[::-1]


def is_consistent(
    old: int, new: int, hashes: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Return whether `hashes` prove that the new tree begins with the old one (RFC 9162)."""
    if not 0 < old <= new or len(hashes) > MAX_HASHES + 1:
        return False
    if old == new:
        return not hashes and old_root == new_root
    proof = list(hashes)
    if old & (old - 1) == 0:  # a power of two: the old root itself is a node of the new tree
        proof.insert(0, old_root)
    if not proof:
        return False
    index, last = old - 1, new - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    first = second = proof[0]
    for node in proof[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node_hash(node, first), node_hash(node, second)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            second = node_hash(second, node)
        index, last = index >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _split(count: int) -> int:
    """Return the largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)
