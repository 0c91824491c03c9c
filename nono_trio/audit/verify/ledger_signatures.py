"""Checks the ledger's signed checkpoints against its lines.

Rules of this file: every checkpoint is checked, by the key that it names and by the tree of the
ledger's lines; with a pinned key there must be one of that key. One signature is checked of each
line, and both of the last one of each key. Memory for a checkpoint is some hundred bytes, whatever
it says. The ledger is read after its checkpoints, so that a session that ends meanwhile contradicts
nothing.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from nono_trio.audit.keys.signature import KEY_MISMATCH
from nono_trio.audit.ledger import LEDGER_CHECKPOINTS
from nono_trio.audit.ledger_heads import (
    BadLedgerHead,
    LedgerHead,
    ledger_leaves,
    read_heads,
    require_note,
)
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.signatures import SIGNATURE_MISSING, TRUNCATED_SIGNED
from nono_trio.audit.verify.verdict import AttestationSeen, Verification
from nono_trio.core.log.shown_text import counted
from nono_trio.core.proof.tree import Frontier, leaf_hash

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.proof.public_keys import PublicKeys

REWRITTEN_SIGNED: Final = "rewritten behind a signed checkpoint"
FORK: Final = "fork"
ROLLBACK: Final = "rollback"


class _Heads:
    """The checkpoints in the file: sizes, roots and keys, and the last one of each key whole."""

    def __init__(self) -> None:
        self.last: dict[bytes, LedgerHead] = {}
        self.sizes = array("Q")
        self.fault: FirstBad | None = None
        """The first rollback, in the line `_rollback`."""
        self._rollback = 0
        self._lines = array("Q")
        self._roots = bytearray()
        self._keys = array("L")
        self._numbers: dict[bytes, int] = {}

    def read(self, path: Path) -> None:
        """Read and check the file; raises BadLedgerHead, LogUnreadable."""
        for one in read_heads(path, notes=False):
            before = self.last.get(one.key)
            if self.fault is None and before is not None and before.head.size > one.head.size:
                expected = f"at least {counted(before.head.size, 'line')}"
                self.fault = _fault(one.line, ROLLBACK, expected, counted(one.head.size, "line"))
                self._rollback = one.line
            self.last[one.key] = one
            self.sizes.append(one.head.size)
            self._lines.append(one.line)
            self._roots += one.head.root
            self._keys.append(self._numbers.setdefault(one.key, len(self._numbers)))
        for one in self.last.values():
            require_note(one)

    def signed_by(self, pinned: PublicKeys | None) -> int | None:
        """Return the most lines that the pinned key has signed, or any key; None for none."""
        number = None if pinned is None else self._numbers.get(pinned.note, -1)
        sizes = (
            size for size, key in zip(self.sizes, self._keys, strict=True) if number in (None, key)
        )
        return max(sizes, default=None)

    def first_fault(self, ledger: Path) -> tuple[FirstBad | None, int]:
        """Compare each checkpoint with the ledger's tree; return the first fault, and the number of
        the ledger's lines. Raises LogUnreadable."""
        fits, first_bad, size = self._compare(ledger)
        bad, fault = len(self.sizes), self.fault
        if first_bad is not None:
            bad, got = first_bad
            failure = FORK if self._is_forked(bad, fits) else REWRITTEN_SIGNED
            expected = f"the root {self._root(bad).hex()} of {counted(self.sizes[bad], 'line')}"
            mismatch = _fault(self._lines[bad], failure, expected, got.hex())
        for place, wanted in enumerate(self.sizes):
            if fault is not None and self._lines[place] >= self._rollback:
                return fault, size
            if wanted > size:
                expected, got_lines = counted(wanted, "line"), counted(size, "line")
                return _fault(self._lines[place], TRUNCATED_SIGNED, expected, got_lines), size
            if place == bad:
                return mismatch, size
        return fault, size

    def _compare(self, ledger: Path) -> tuple[bytearray, tuple[int, bytes] | None, int]:
        """Return which checkpoints fit, the first one that does not with the ledger's own root, and
        the number of lines."""
        order = iter(sorted(range(len(self.sizes)), key=self.sizes.__getitem__))
        fits, first_bad = bytearray(len(self.sizes)), None
        frontier, place = Frontier(), next(order, None)
        leaves = ledger_leaves(ledger)
        while True:
            if place is not None and self.sizes[place] == len(frontier):
                root = frontier.root()
                while place is not None and self.sizes[place] == len(frontier):
                    fits[place] = self._root(place) == root
                    if not fits[place] and (first_bad is None or place < first_bad[0]):
                        first_bad = place, root
                    place = next(order, None)
            leaf = next(leaves, None)
            if leaf is None:
                return fits, first_bad, len(frontier)
            frontier.append(leaf_hash(leaf))

    def _is_forked(self, bad: int, fits: bytearray) -> bool:
        """Return whether the same key has signed the ledger's lines too: two histories."""
        return any(
            fits[place] and self._keys[place] == self._keys[bad] and size >= self.sizes[bad]
            for place, size in enumerate(self.sizes)
        )

    def _root(self, place: int) -> bytes:
        return bytes(self._roots[32 * place : 32 * place + 32])


def judge_ledger_signatures(answer: Verification, ledger: Path, pinned: PublicKeys | None) -> None:
    """Add to the answer for a ledger what its signed checkpoints say; raises LogUnreadable.

    A fault in the ledger's own chain keeps its place as the first.
    """
    heads = _Heads()
    try:
        heads.read(ledger.with_name(LEDGER_CHECKPOINTS))
    except BadLedgerHead as bad:
        _condemn(answer, _fault(bad.line, bad.failure, bad.expected, bad.got))
        return
    fault, size = heads.first_fault(ledger)
    signed = heads.signed_by(pinned)
    if fault is None and pinned is not None and signed is None:
        fault = _pin_fault(heads, pinned)
    if fault is not None:
        _condemn(answer, fault)
        return
    if signed is None:
        return
    answer.attestation = AttestationSeen(
        present=True,
        signature_verified=True,
        key_id=None if pinned is None else pinned.key_id,
        pinned=pinned is not None,
        signed_through=signed - 1,
    )
    whose = "by the key that its checkpoints name" if pinned is None else "by the pinned key"
    answer.notes.append(f"signed through line {signed} {whose}")
    if size > signed:
        answer.notes.append(f"not signed yet: {counted(size - signed, 'line')} after that")


def _pin_fault(heads: _Heads, pinned: PublicKeys) -> FirstBad:
    last = next(reversed(heads.last.values()), None)
    return FirstBad(
        failure=f"ledger {SIGNATURE_MISSING if last is None else KEY_MISMATCH}",
        expected=f"a checkpoint that key {pinned.key_id} has signed",
        got="none" if last is None else last.head.origin,
    )


def _fault(line: int, failure: str, expected: str, got: str) -> FirstBad:
    where = f" (line {line} of {LEDGER_CHECKPOINTS})"
    return FirstBad(failure=f"ledger {failure}", expected=expected + where, got=got)


def _condemn(answer: Verification, fault: FirstBad) -> None:
    answer.verdict = "tampered"
    if answer.first_bad is None:
        answer.first_bad = fault
    else:
        answer.notes.append(fault.text)
