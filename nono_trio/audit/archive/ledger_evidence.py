"""Makes the files that go with a session into an archive: the ledger's line, its proof, the keys.

Rules of this file: of the signed checkpoints, the first one that has the line is taken, so the
archive of a session is the same whenever it is made. A session that was imported keeps the files
that came with it. What is made is checked as a reader will check it. Blocking; 32 bytes of memory
for each line of the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit import ledger as ledgers
from nono_trio.audit.ledger import LEDGER, LEDGER_CHECKPOINTS
from nono_trio.audit.store import CARRIED, LEDGER_CHECKPOINT, LEDGER_LINE, LEDGER_PROOF
from nono_trio.audit.verify.carried_ledger import MAX_BYTES, key_files
from nono_trio.core.log.ledger_record import LedgerRecord, encode_ledger_record, sound_record
from nono_trio.errors import LogRewritten, LogUnreadable
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger_heads import LedgerHead


def evidence_files(directory: Path) -> dict[str, bytes]:
    """Return the files by name; raises LogUnreadable and OSError."""
    root = directory.resolve().parent
    if directory.name in ledgers.verify(root, directory.name).imported:
        return _as_they_came(directory)
    record = _line_of(root, directory.name)
    files: dict[str, bytes | None] = {LEDGER_LINE: encode_ledger_record(record)}
    head = _head(directory, root, record) if ledgers.is_signed(root / LEDGER) else None
    if head is not None:
        files[LEDGER_CHECKPOINT] = _checkpoint_line(root, head.line)
        files[LEDGER_PROOF] = _proof(root, record, head)
    files |= key_files(directory, head)
    return {name: data for name, data in files.items() if data is not None}


def _as_they_came(directory: Path) -> dict[str, bytes]:
    found = {}
    for name in CARRIED:
        if (directory / name).exists():
            found[name] = read_whole(directory / name, MAX_BYTES)
    return found


def _line_of(root: Path, session_id: str) -> LedgerRecord:
    """Return the first good line of a session, as the ledger's reader takes it."""
    for _, _, line in ledgers.numbered_lines(root / LEDGER):
        record = sound_record(line)
        if record is not None and record.session_id == session_id:
            return record
    raise LogUnreadable(
        f"the ledger in {root} has no line for session {session_id}",
        hint=f"nono-trio audit verify {session_id}",
    )


def _head(directory: Path, root: Path, record: LedgerRecord) -> LedgerHead | None:
    """Return the first checkpoint with the line, of the session's own key if there is one."""
    from nono_trio.audit.ledger_heads import BadLedgerHead, read_heads  # late: few are signed
    from nono_trio.audit.verify.signatures import SignatureCheck

    keys = SignatureCheck.of(directory).keys
    first = own = None
    try:
        for head in read_heads(root / LEDGER_CHECKPOINTS):
            if head.head.size <= record.sequence:
                continue
            if keys is not None and head.key == keys.note:
                own = head if own is None or head.head.size < own.head.size else own
            first = head if first is None or head.head.size < first.head.size else first
    except BadLedgerHead as bad:
        raise _rewritten(root, f"line {bad.line} of its checkpoints: {bad.failure}") from bad
    return own or first


def _checkpoint_line(root: Path, wanted: int) -> bytes:
    lines = ledgers.numbered_lines(root / LEDGER_CHECKPOINTS)
    return next(line for number, _, line in lines if number == wanted)


def _proof(root: Path, record: LedgerRecord, head: LedgerHead) -> bytes:
    from itertools import islice

    from nono_trio.audit.ledger_heads import ledger_leaves  # late: few are signed
    from nono_trio.audit.verify.proofs import Leaves
    from nono_trio.core.proof import tree
    from nono_trio.core.proof.proof_file import ProofFile

    leaves, place, data = Leaves(), record.sequence, encode_ledger_record(record)[:-1]
    for leaf in islice(ledger_leaves(root / LEDGER), head.head.size):
        leaves.append(leaf)
    size = head.head.size
    if len(leaves) < size or tree.tree_root(leaves, 0, size) != head.head.root:
        raise _rewritten(root, f"its first {size} lines are not those that were signed")
    if leaves[place] != tree.leaf_hash(data):
        raise _rewritten(root, f"line {place + 1} is not in its place")
    hashes = tuple(tree.prove_inclusion(leaves, place, size))
    return ProofFile(place, hashes, head.note, data).encode()


def _rewritten(root: Path, reason: str) -> LogRewritten:
    return LogRewritten(
        f"the ledger in {root} is tampered, so it proves nothing: {reason}",
        hint="`nono-trio audit ledger verify` says where",
    )
