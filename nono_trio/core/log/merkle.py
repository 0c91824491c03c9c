"""The Merkle tree over a log's leaves, and proofs that one record is in it.

    node = SHA-256("nono.audit.merkle.alpha\n" || left || right)

Leaves are used as they are; an odd last node is carried up unchanged (never doubled: two logs
must not share a root, CVE-2012-2459); the empty tree is SHA-256 of nothing. The shape is that of
RFC 6962, only the node hash differs.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import msgspec

from nono_trio.core.proof.accumulator import EMPTY_ROOT, TreeAccumulator

if TYPE_CHECKING:
    from collections.abc import Sequence

_node_prefix = hashlib.sha256(b"nono.audit.merkle.alpha\n")


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes: 32 bytes."""
    hasher = _node_prefix.copy()
    hasher.update(left + right)
    return hasher.digest()


class MerkleAccumulator(TreeAccumulator):
    """The root of a growing list of leaves."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(node_hash)


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
