"""The lines of a log that a search may want, found without decoding the others.

Rules of this file: a line is left out only if it is ASCII, has none of a group's literals and no
`\\u` escape, behind which any text may hide: other letters may become ASCII in lower case (the sign
for kelvin is a k then). Blocks are searched in lower case, as hosts have no case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit.read.records import line_blocks, line_blocks_backwards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.search.query import Groups

_ESCAPE: Final = b"\\u"


def candidate_lines(path: Path, size: int, groups: Groups) -> Iterator[bytes]:
    """Yield the lines of the first `size` bytes that may be wanted, in order, with their newlines.

    Raises OSError and LogUnreadable.
    """
    for block in line_blocks(path, size):
        yield from _candidates(block, groups)


def candidate_lines_backwards(path: Path, size: int, groups: Groups) -> Iterator[bytes]:
    """As `candidate_lines`, the last line first."""
    for block in line_blocks_backwards(path, size):
        yield from reversed([*_candidates(block, groups)])


def _candidates(block: bytes, groups: Groups) -> Iterator[bytes]:
    if not groups:
        yield from _lines(block)
        return
    if not block.isascii():
        for line in _lines(block):
            yield from _candidates(line, groups) if line.isascii() else (line,)
        return
    lower = block.lower()
    first, *others = groups
    searches = [_Places(lower, literal) for literal in (*first, _ESCAPE)]
    at = 0
    while (found := min(search.after(at) for search in searches)) < len(lower):
        begin = lower.rfind(b"\n", 0, found) + 1
        at = lower.find(b"\n", found) + 1 or len(lower)
        if all(_has_one(lower, begin, at, group) for group in others):
            yield block[begin:at]


def _lines(block: bytes) -> list[bytes]:
    """Lines end with a line feed only; bytes.splitlines also takes carriage returns."""
    if b"\r" not in block:
        return block.splitlines(keepends=True)
    return [line + b"\n" for line in block.split(b"\n")[:-1]]


def _has_one(lower: bytes, begin: int, end: int, group: tuple[bytes, ...]) -> bool:
    return any(lower.find(literal, begin, end) >= 0 for literal in (*group, _ESCAPE))


class _Places:
    """The places of one literal in a block; each is looked for once."""

    def __init__(self, block: bytes, literal: bytes) -> None:
        self._block = block
        self._literal = literal
        self._next = -1

    def after(self, at: int) -> int:
        """Return the first place from `at` on; the length of the block after the last one."""
        if self._next < at:
            found = self._block.find(self._literal, at)
            self._next = len(self._block) if found < 0 else found
        return self._next
