"""The root of a Merkle tree whose leaves come one after another, whatever its node hash is.

An odd last node is carried up unchanged; the empty tree is SHA-256 of nothing (RFC 6962). A tree of
n leaves is therefore a row of perfect subtrees, one for each 1 bit of n, and only their roots are
kept. core/log/merkle.py and core/proof/tree.py have the node hashes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

# Leaves wait until there are so many. Then their nodes are hashed row by row, without a loop in
# Python for each. It takes 50 microseconds, for which the writer of a log waits.
MOST_WAITING: Final = 64


class TreeAccumulator:
    """The root of a growing list of leaves, in O(log n) memory and amortised O(1) time a leaf.

    `parent` is the node hash of the tree.
    """

    __slots__ = ("_count", "_node_hash", "_peaks", "_waiting")

    def __init__(self, parent: Callable[[bytes, bytes], bytes]) -> None:
        self._count = 0  # of the leaves below `_peaks`
        self._peaks: list[bytes] = []  # roots of the perfect subtrees, largest first
        self._waiting: list[bytes] = []  # the leaves after them
        self._node_hash = parent

    def __len__(self) -> int:
        return self._count + len(self._waiting)

    def append(self, leaf: bytes) -> None:
        """Add one leaf (32 bytes)."""
        self._waiting.append(leaf)
        if len(self._waiting) >= MOST_WAITING:
            self._take_waiting()

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves in order."""
        self._waiting.extend(leaves)
        if len(self._waiting) >= MOST_WAITING:
            self._take_waiting()

    def append_subtree(self, level: int, node: bytes) -> None:
        """Add the 2**level leaves of a perfect subtree, by its root; their number so far must be
        a multiple of 2**level (raises ValueError)."""
        self._take_waiting()
        if self._count & ((1 << level) - 1):
            raise ValueError(f"expected a subtree of level {level} at a multiple of its size")
        self._join(level, node)

    def root(self) -> bytes:
        """Return the root over all leaves so far; more may follow."""
        self._take_waiting()
        if not self._peaks:
            return EMPTY_ROOT
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = self._node_hash(peak, node)
        return node

    def _take_waiting(self) -> None:
        leaves, self._waiting = self._waiting, []
        for level, node in subtrees(self._count, leaves, self._node_hash):
            self._join(level, node)

    def _join(self, level: int, node: bytes) -> None:
        closed = self._count >> level
        while closed & 1:  # each trailing 1 bit is a subtree that this one completes
            node = self._node_hash(self._peaks.pop(), node)
            closed >>= 1
        self._peaks.append(node)
        self._count += 1 << level


def subtrees(
    start: int, leaves: Sequence[bytes], parent: Callable[[bytes, bytes], bytes]
) -> list[tuple[int, bytes]]:
    """Return the perfect subtrees of leaves in the middle of a list, in order, as (level, root).

    `start` is the place of the first leaf in the whole list. Whoever has the leaves before it can
    go on with `TreeAccumulator.append_subtree`: the roots are then those of one list. `parent` is
    the node hash of the tree.
    """
    first, last = list[tuple[int, bytes]](), list[tuple[int, bytes]]()
    row, level, place = leaves, 0, start
    while row:
        if place & 1:  # its left neighbour is before these leaves
            first.append((level, row[0]))
            row, place = row[1:], place + 1
        if len(row) & 1:  # its right neighbour is after them
            last.append((level, row[-1]))
            row = row[:-1]
        row = list(map(parent, row[::2], row[1::2]))
        level, place = level + 1, place // 2
    return first + last[::-1]
