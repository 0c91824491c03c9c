"""Checks the cosignatures of witnesses that are kept beside the ledger, against its lines.

Rules of this file: only the witnesses count whose keys the caller gives, each at least once. A
witness knows many logs, so only checkpoints count that are this ledger's by their origin: those of
the pinned key, or of the keys in ledger-checkpoints.ndjson. A kept cosignature that does not fit
the ledger is tampering: the witness has seen other lines. Nothing binds the rest of the file. The
ledger is read after its cosignatures, so that a session that ends
meanwhile contradicts nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.audit.keys.signature import is_ed25519
from nono_trio.audit.ledger import LEDGER_CHECKPOINTS, LEDGER_COSIGNATURES, numbered_lines
from nono_trio.audit.ledger_heads import origins_named, read_tree
from nono_trio.audit.stored_session import FirstBad
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.ledger_cosignature import decode_ledger_cosignature
from nono_trio.core.log.shown_text import counted
from nono_trio.core.proof.note import parse_note
from nono_trio.core.proof.tree_head import ledger_origin, parse_tree_head
from nono_trio.core.proof.witness import cosignature_of, cosigned_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nono_trio.audit.verify.verdict import Verification
    from nono_trio.core.proof.public_keys import PublicKeys
    from nono_trio.core.proof.tree_head import TreeHead
    from nono_trio.core.proof.witness import WitnessKey

COSIGNATURE_MISSING: Final = "cosignature missing"
COSIGNATURE_MISMATCH: Final = "cosignature mismatch"
TRUNCATED: Final = "truncated behind a cosigned checkpoint"
REWRITTEN: Final = "rewritten behind a cosigned checkpoint"


class _Cosigned(NamedTuple):
    """A good cosignature: its line in the file, the tree it is about, whose, and POSIX seconds."""

    line: int
    head: TreeHead
    witness: WitnessKey
    time: int


class _BadLine(Exception):
    def __init__(self, line: int, failure: str, expected: str, got: str) -> None:
        super().__init__(failure)
        self.fault = _fault(line, failure, expected, got)


def judge_cosignatures(
    answer: Verification, ledger: Path, keys: Sequence[WitnessKey], pinned: PublicKeys | None
) -> None:
    """Add to the answer for a ledger what these witnesses have cosigned; raises LogUnreadable.

    The signed checkpoints must have been checked. A fault that the answer has already keeps its
    place as the first.
    """
    found = list[_Cosigned]()
    try:
        kept = list(_cosigned(ledger.with_name(LEDGER_COSIGNATURES), keys))
        origins = _origins(ledger, pinned)
        found = [one for one in kept if one.head.origin in origins]
        fault = _first_fault(kept, ledger) or _missing(found, keys)
    except _BadLine as bad:
        fault = bad.fault
    if fault is not None:
        answer.verdict = "tampered"
        if answer.first_bad is None:
            answer.first_bad = fault
        else:
            answer.notes.append(fault.text)
        return
    for key in keys:
        answer.notes.append(_note([one for one in found if one.witness == key]))


def _cosigned(path: Path, keys: Sequence[WitnessKey]) -> Iterator[_Cosigned]:
    """Yield the good cosignatures of these witnesses, in order; raises _BadLine."""
    for number, _, line in numbered_lines(path):
        if not line.endswith(b"\n"):
            return  # what a crash leaves
        try:
            kept = decode_ledger_cosignature(line)
            if kept.outcome != "cosigned":
                continue
            note = parse_note(kept.note.encode())
            head = parse_tree_head(note.text)
            for key in keys:
                cosignature = cosignature_of(note.signatures, key)
                if cosignature is None:
                    continue
                message = cosigned_message(cosignature.time, note.text)
                if not is_ed25519(key.key, cosignature.signature, message):
                    raise _BadLine(
                        number, COSIGNATURE_MISMATCH, f"a signature of {key.name}", "another"
                    )
                yield _Cosigned(number, head, key, cosignature.time)
        except (*MALFORMED, ValueError) as error:
            raise _BadLine(
                number, "cosignature parse error", "a cosignature", str(error)
            ) from error


def _origins(ledger: Path, pinned: PublicKeys | None) -> set[str]:
    """Return the origins of a ledger's checkpoints."""
    if pinned is not None:
        return {ledger_origin(pinned.note)}
    return origins_named(ledger.with_name(LEDGER_CHECKPOINTS))


def _missing(found: Sequence[_Cosigned], keys: Sequence[WitnessKey]) -> FirstBad | None:
    seen = {one.witness for one in found}
    for key in keys:
        if key not in seen:
            expected = f"a cosignature of {key.name} under an origin of this ledger"
            return FirstBad(failure=f"ledger {COSIGNATURE_MISSING}", expected=expected, got="none")
    return None


def _first_fault(found: Sequence[_Cosigned], ledger: Path) -> FirstBad | None:
    tree = read_tree(ledger, {one.head.size for one in found})
    for line, head, witness, _ in found:
        who = f"{counted(head.size, 'line')}, which {witness.name} has cosigned"
        if head.size > tree.size:
            return _fault(line, TRUNCATED, who, counted(tree.size, "line"))
        if tree.roots[head.size] != head.root:
            got = tree.roots[head.size].hex()
            return _fault(line, REWRITTEN, f"the root {head.root.hex()} of {who}", got)
    return None


def _fault(line: int, failure: str, expected: str, got: str) -> FirstBad:
    where = f" (line {line} of {LEDGER_COSIGNATURES})"
    return FirstBad(failure=f"ledger {failure}", expected=expected + where, got=got)


def _note(found: Sequence[_Cosigned]) -> str:
    """Return what one witness has cosigned; there is something."""
    last = max(found, key=lambda one: (one.head.size, one.time))
    first = min(found, key=lambda one: one.time)
    sizes = counted(len({one.head.size for one in found}), "checkpoint")
    return (
        f"{last.witness.name} has cosigned {sizes} since {_text(first.time)}, the last one through"
        f" line {last.head.size} at {_text(last.time)}"
    )


def _text(time: int) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # past the calendar
        return f"{time} s"
