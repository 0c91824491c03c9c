"""The Merkle tree over a log's leaves, and proofs that one record is in it.

    node = SHA-256("nono.audit.merkle.alpha\n" || left || right)

Leaves are used as they are; an odd last node is carried up unchanged (never doubled: two logs
must not share a root, CVE-2012-2459); the empty tree is SHA-256 of nothing. The shape is that of
RFC 6962, only the node hash differs, so a tree of n leaves is a row of perfect subtrees, one for
each 1 bit of n. The accumulator keeps just their roots.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()

_node_prefix = hashlib.sha256(b"nono.audit.merkle.alpha\n")


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes: 32 bytes."""
    hasher = _node_prefix.copy()
    hasher.update(left + right)
    return hasher.digest()


class MerkleAccumulator:
    """The root of a growing list of leaves, in O(log n) memory and amortised O(1) time a leaf."""

    __slots__ = ("_count", "_peaks")

    def __init__(self) -> None:
        self._count = 0
        self._peaks: list[bytes] = []  # roots of the perfect subtrees, largest first

    def __len__(self) -> int:
        return self._count

    def append(self, leaf: bytes) -> None:
        """Add one leaf (32 bytes)."""
        node = leaf
        closed = self._count
        while closed & 1:  # each trailing 1 bit is a subtree that this leaf completes
            node = node_hash(self._peaks.pop(), node)
            closed >>= 1
        self._peaks.append(node)
        self._count += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves in order."""
        for leaf in leaves:
            self.append(leaf)

    def append_subtree(self, level: int, node: bytes) -> None:
        """Add the 2**level leaves of a perfect subtree, by its root; their number so far must be
        a multiple of 2**level (raises ValueError)."""
        if self._count & ((1 << level) - 1):
            raise ValueError(f"expected a subtree of level {level} at a multiple of its size")
        closed = self._count >> level
        while closed & 1:
            node = node_hash(self._peaks.pop(), node)
            closed >>= 1
        self._peaks.append(node)
        self._count += 1 << level

    def root(self) -> bytes:
        """Return the root over all leaves so far; more may follow."""
        if not self._peaks:
            return EMPTY_ROOT
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node


class MerkleRange:
    """The perfect subtrees of some leaves in the middle of a list, in O(log n) memory.

    `start` is the place of the first leaf in the whole list. Whoever has the leaves before it can
    go on with `MerkleAccumulator.append_subtree`: the roots are then those of one list. `node_hash`
    is the tree's own (upstream's; another tree has the same shape).
    """

    __slots__ = ("_node_hash", "_place", "_subtrees")

    def __init__(self, start: int, parent: Callable[[bytes, bytes], bytes] = node_hash) -> None:
        self._place = start
        self._subtrees: list[tuple[int, bytes]] = []
        self._node_hash = parent

    def append(self, leaf: bytes) -> None:
        """Add one leaf (32 bytes)."""
        node, level, place, subtrees = leaf, 0, self._place, self._subtrees
        # The last subtree is the left neighbour if it has the same size and ours is a right one.
        while place & 1 and subtrees and subtrees[-1][0] == level:
            node = self._node_hash(subtrees.pop()[1], node)
            place >>= 1
            level += 1
        subtrees.append((level, node))
        self._place += 1

    def take(self) -> list[tuple[int, bytes]]:
        """Return the subtrees since the last call, in order, each as (level, root)."""
        taken, self._subtrees = self._subtrees, []
        return taken


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of `leaves`, level by level: the definition that tests compare the
    accumulator with."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def _next_level(level: list[bytes]) -> list[bytes]:
    parents = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        parents.append(level[-1])
    return parents


class Sibling(msgspec.Struct, kw_only=True, frozen=True):
    """One step towards the root: the neighbouring node, and its side."""

    direction: Literal["left", "right"]
    hash: str


class InclusionProof(msgspec.Struct, kw_only=True, frozen=True):
    """Proof that a leaf is the `leaf_index`-th of `leaf_count`; hashes in hex, siblings leaf to
    root.

    A level at which the node is carried up has no sibling.
    """

    leaf_index: int
    leaf_count: int
    leaf_hash: str
    merkle_root: str
    siblings: list[Sibling]


def prove(leaves: Sequence[bytes], index: int) -> InclusionProof:
    """Return the proof for `leaves[index]`; raises IndexError when there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"expected a leaf index below {len(leaves)}, got {index}")
    siblings: list[Sibling] = []
    level, position = list(leaves), index
    while len(level) > 1:
        beside = position ^ 1
        if beside < len(level):
            direction: Literal["left", "right"] = "left" if beside < position else "right"
            siblings.append(Sibling(direction=direction, hash=level[beside].hex()))
        level, position = _next_level(level), position // 2
    return InclusionProof(
        leaf_index=index,
        leaf_count=len(leaves),
        leaf_hash=leaves[index].hex(),
        merkle_root=level[0].hex(),
        siblings=siblings,
    )


def check_proof(proof: InclusionProof) -> bool:
    """Return True if the proof holds for its own root; the caller must check the root itself.

    The sides and the number of siblings must be those of `leaf_index` and `leaf_count`. Otherwise
    the proof of one leaf would pass for any index.
    """
    try:
        steps = [(step.direction, _digest(step.hash)) for step in proof.siblings]
        node, root = _digest(proof.leaf_hash), _digest(proof.merkle_root)
    except ValueError:
        return False
    if [side for side, _ in steps] != sibling_sides(proof.leaf_index, proof.leaf_count):
        return False
    for side, beside in steps:
        node = node_hash(beside, node) if side == "left" else node_hash(node, beside)
    return node == root


def sibling_sides(index: int, count: int) -> list[str] | None:
    """Return the sides of a leaf's siblings; None if there is no such leaf."""
    if not 0 <= index < count:
        return None
    sides = []
    while count > 1:
        if index % 2:
            sides.append("left")
        elif index + 1 < count:
            sides.append("right")
        index, count = index // 2, (count + 1) // 2
    return sides


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 32 or len(text) != 64:  # fromhex skips spaces
        raise ValueError("expected 64 hex digits")
    return digest
