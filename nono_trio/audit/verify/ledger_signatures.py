"""Checks the ledger's signed checkpoints against its lines.

Rules of this file: every checkpoint is checked, by the key that it names and by the tree of the
ledger's lines; with a pinned key there must be one of that key. The ledger is read after its
checkpoints, so that a session that ends meanwhile contradicts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit.ledger import LEDGER_CHECKPOINTS
from nono_trio.audit.ledger_heads import (
    BadLedgerHead,
    LedgerHead,
    Tree,
    read_heads,
    read_tree,
)
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.signatures import KEY_MISMATCH, SIGNATURE_MISSING, TRUNCATED_SIGNED
from nono_trio.audit.verify.verdict import AttestationSeen, Verification

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.core.proof.public_keys import PublicKeys

REWRITTEN_SIGNED: Final = "rewritten behind a signed checkpoint"
FORK: Final = "fork"
ROLLBACK: Final = "rollback"


def judge_ledger_signatures(answer: Verification, ledger: Path, pinned: PublicKeys | None) -> None:
    """Add to the answer for a ledger what its signed checkpoints say; raises LogUnreadable.

    A fault in the ledger's own chain keeps its place as the first.
    """
    try:
        heads = list(read_heads(ledger.with_name(LEDGER_CHECKPOINTS)))
    except BadLedgerHead as bad:
        _condemn(answer, _fault(bad.line, bad.failure, bad.expected, bad.got))
        return
    tree = read_tree(ledger, {one.head.size for one in heads})
    fault = _first_fault(heads, tree) or _pin_fault(heads, pinned)
    if fault is not None:
        _condemn(answer, fault)
        return
    ours = [one.head.size for one in heads if pinned is None or one.key == pinned.note]
    if not ours:
        return
    signed = max(ours)
    answer.attestation = AttestationSeen(
        present=True,
        signature_verified=True,
        key_id=None if pinned is None else pinned.key_id,
        pinned=pinned is not None,
        signed_through=signed - 1,
    )
    whose = "by the key that its checkpoints name" if pinned is None else "by the pinned key"
    answer.notes.append(f"signed through line {signed} {whose}")
    if tree.size > signed:
        answer.notes.append(f"not signed yet: {tree.size - signed} lines after that")


def _first_fault(heads: Sequence[LedgerHead], tree: Tree) -> FirstBad | None:
    sizes: dict[bytes, int] = {}
    for one in heads:
        size, root = one.head.size, one.head.root
        if sizes.get(one.key, 0) > size:
            return _fault(one.line, ROLLBACK, f"at least {sizes[one.key]} lines", f"{size} lines")
        sizes[one.key] = size
        if size > tree.size:
            return _fault(one.line, TRUNCATED_SIGNED, f"{size} lines", f"{tree.size} lines")
        if tree.roots[size] != root:
            failure = FORK if _is_forked(one, heads, tree) else REWRITTEN_SIGNED
            expected = f"the root {root.hex()} of {size} lines"
            return _fault(one.line, failure, expected, tree.roots[size].hex())
    return None


def _is_forked(bad: LedgerHead, heads: Sequence[LedgerHead], tree: Tree) -> bool:
    """Return whether the same key has signed the ledger's lines too: two histories."""
    return any(
        one.key == bad.key
        and one.head.size >= bad.head.size
        and tree.roots.get(one.head.size) == one.head.root
        for one in heads
    )


def _pin_fault(heads: Sequence[LedgerHead], pinned: PublicKeys | None) -> FirstBad | None:
    if pinned is None or any(one.key == pinned.note for one in heads):
        return None
    failure, got = SIGNATURE_MISSING, "none"
    if heads:
        failure, got = KEY_MISMATCH, heads[-1].head.origin
    return FirstBad(
        failure=f"ledger {failure}",
        expected=f"a checkpoint that key {pinned.key_id} has signed",
        got=got,
    )


def _fault(line: int, failure: str, expected: str, got: str) -> FirstBad:
    where = f" (line {line} of {LEDGER_CHECKPOINTS})"
    return FirstBad(failure=f"ledger {failure}", expected=expected + where, got=got)


def _condemn(answer: Verification, fault: FirstBad) -> None:
    answer.verdict = "tampered"
    if answer.first_bad is None:
        answer.first_bad = fault
    else:
        answer.notes.append(f"{fault.failure}: expected {fault.expected}, got {fault.got}")
