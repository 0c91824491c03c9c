"""Proofs about signed logs, made and checked: one record, and one checkpoint after another.

Rules of this file: a proof is made of the log's own bytes and of a note, and checked before it is
given out. What is checked is what the note's signature covers. Leaves take 32 bytes of memory for
each record of a log.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from nono_trio.audit import ledger as ledgers
from nono_trio.audit import store
from nono_trio.audit.keys.signature import note_fault
from nono_trio.audit.read.records import lines, size_of
from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.session_json import decode_checkpoint
from nono_trio.core.log.shown_text import counted
from nono_trio.core.proof import tree
from nono_trio.core.proof.accumulator import EMPTY_ROOT
from nono_trio.core.proof.note import Note, parse_note
from nono_trio.core.proof.proof_file import FIRST_LINE, MAX_PROOF, ProofFile, parse_proof
from nono_trio.core.proof.tree_head import TreeHead, parse_tree_head, session_of
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SIGN_HINT: Final = "`run --audit-sign-key NAME` signs a session while it runs"
PROOF_HINT: Final = "`nono-trio audit prove SESSION SEQUENCE -o FILE` makes one"


class ProofFailed(Exception):
    """A proof does not hold; `failure` is its class."""

    failure: str
    expected: str
    got: str

    def __init__(self, failure: str, expected: str, got: str) -> None:
        super().__init__(failure)
        self.failure = failure
        self.expected = expected
        self.got = got


class SignedHead(NamedTuple):
    """A tree head and the note that signs it, as bytes and parsed."""

    head: TreeHead
    note: Note
    data: bytes

    def require_signature(self, key: bytes) -> None:
        """Raise ProofFailed unless an Ed25519 key (32 bytes) has signed it under its origin."""
        fault = note_fault(self.note, self.head.origin, key)
        if fault is not None:
            raise ProofFailed(*fault)


class CheckedRecord(NamedTuple):
    """A record that a proof shows: its place, the size of the signed tree, and its bytes."""

    session_id: str
    sequence: int
    size: int
    event_json: bytes


class Leaves:
    """The leaf hashes of a log, 32 bytes each; `data` keeps the bytes of one record."""

    def __init__(self) -> None:
        self._hashes = bytearray()

    def __len__(self) -> int:
        return len(self._hashes) // 32

    def __getitem__(self, place: int) -> bytes:
        return bytes(self._hashes[32 * place : 32 * place + 32])

    def append(self, data: bytes) -> None:
        """Add the leaf of a record's bytes."""
        self._hashes += tree.leaf_hash(data)


class _Payload(msgspec.Struct):
    event_json: str


_payload_decoder = late_decoder(_Payload)


def signed_heads(directory: Path) -> Iterator[SignedHead]:
    """Yield the signed checkpoints of a session, in order; raises LogUnreadable, OSError."""
    return _heads_in(directory / store.CHECKPOINTS)


def last_signed_head(directory: Path) -> SignedHead:
    """Return the last signed checkpoint of a session.

    Raises UsageError without one, LogUnreadable and OSError.
    """
    last = _last(signed_heads(directory))
    if last is None:
        raise UsageError(
            f"session {directory.name} has no signed checkpoint",
            hint=SIGN_HINT,
        )
    return last


def prove_record(directory: Path, sequence: int) -> ProofFile:
    """Return the proof of one record under the session's last signed checkpoint.

    Raises UsageError if no signed checkpoint covers it, ProofFailed if the log is not the one that
    was signed, LogUnreadable and OSError.
    """
    last = last_signed_head(directory)
    if not 0 <= sequence < last.head.size:
        raise UsageError(
            f"expected a sequence from 0 to {last.head.size - 1}, got {sequence}: the signed"
            " checkpoints cover no more",
            hint=f"nono-trio audit prove {directory.name} {last.head.size - 1}",
        )
    leaves, data = Leaves(), b""
    for place, record in enumerate(_records(directory, last.head.size)):
        leaves.append(record)
        if place == sequence:
            data = record
    _require_root(leaves, last.head)
    return ProofFile(
        sequence, tuple(tree.prove_inclusion(leaves, sequence, len(leaves))), last.data, data
    )


def check_record(data: bytes, key: bytes) -> CheckedRecord:
    """Check a proof file with nothing but an Ed25519 key (32 bytes).

    Raises ProofFailed if it does not hold, LogUnreadable if it is no proof of a record.
    """
    try:
        proof = parse_proof(data)
        signed = parse_head(proof.checkpoint)
    except ValueError as error:
        raise LogUnreadable(f"expected a tlog-proof file: {error}", hint=PROOF_HINT) from error
    session_id = session_of(signed.head.origin)
    if proof.extra is None or session_id is None:
        raise LogUnreadable(
            "expected a proof by `nono-trio audit prove`, which has the record", hint=PROOF_HINT
        )
    signed.require_signature(key)
    leaf, head = tree.leaf_hash(proof.extra), signed.head
    if not tree.includes(leaf, proof.leaf_index, head.size, proof.hashes, head.root):
        raise ProofFailed(
            "inclusion mismatch", f"a record of the signed tree of {head.size}", "another record"
        )
    return CheckedRecord(session_id, proof.leaf_index, head.size, proof.extra)


def parse_head(data: bytes) -> SignedHead:
    """Return the signed checkpoint in `data`, all of which must be the note; raises ValueError."""
    note = parse_note(data)
    return SignedHead(parse_tree_head(note.text), note, data)


def read_head(path: Path) -> SignedHead:
    """Return the (last) signed checkpoint in a file: a note, a proof, or checkpoints.ndjson.

    Raises LogUnreadable, OSError.
    """
    found = None
    try:
        if first_line(path).startswith(b"{"):
            found = _last(_heads_in(path))
        else:
            data = read_whole(path, MAX_PROOF)
            is_proof = data.partition(b"\n")[0].strip() == FIRST_LINE.encode()
            found = parse_head(parse_proof(data).checkpoint if is_proof else data)
    except ValueError as error:
        raise _no_head(path) from error
    if found is None:
        raise _no_head(path)
    return found


def _no_head(path: Path) -> LogUnreadable:
    return LogUnreadable(
        f"expected a signed checkpoint in {path}: a note, a tlog-proof, or a checkpoints.ndjson",
        hint="keep a copy of a session's checkpoints.ndjson, or of ledger-checkpoints.ndjson",
    )


def prove_extension(old: SignedHead, new: SignedHead, directory: Path) -> list[bytes]:
    """Return the proof that `new` continues `old`, from the log of the session in `directory`.

    Raises ProofFailed: rollback (the new one has fewer records), fork (another history), or trees
    that the log does not have; LogUnreadable and OSError.
    """
    return prove_growth(old.head, new.head, _records(directory, new.head.size))


def prove_growth(before: TreeHead, after: TreeHead, records: Iterable[bytes]) -> list[bytes]:
    """Return the proof that one tree continues another, from the data of the later one's leaves.

    Raises ProofFailed as `prove_extension` does.
    """
    if before.origin != after.origin:
        raise ProofFailed("another log", before.origin, after.origin)
    _require_no_rollback(before.size, after.size)
    leaves = Leaves()
    for record in records:
        leaves.append(record)
    _require_root(leaves, after)
    return _extension(leaves, before, after)


def prove_ledger_extension(old: Path, new: Path) -> tuple[int, int]:
    """Check that one ledger continues another, line for line; return their numbers of lines.

    Raises ProofFailed and OSError.
    """
    count = 0
    later = lines(new, size_of(new))
    for line in lines(old, size_of(old)):
        other = next(later, None)
        if other is None:
            raise ProofFailed(
                "rollback", f"at least {counted(count + 1, 'line')}", counted(count, "line")
            )
        if other != line:
            raise ProofFailed("fork", f"the same line {count + 1}", "another line")
        count += 1
    return count, count + sum(1 for _ in later)


def is_ledger_file(path: Path) -> bool:
    """Return whether a file is a copy of a ledger, by its first line."""
    return path.name == ledgers.LEDGER or b'"session_digest"' in first_line(path)


def first_line(path: Path) -> bytes:
    """Return the first line of a file; b"" without one. Raises OSError."""
    return next(lines(path, size_of(path)), b"")


def _extension(leaves: Leaves, before: TreeHead, after: TreeHead) -> list[bytes]:
    if before.size == 0:  # every log continues the empty one, which has one root
        proof, holds = [], before.root == EMPTY_ROOT
    else:
        proof = tree.prove_consistency(leaves, before.size, after.size)
        holds = tree.is_consistent(before.size, after.size, proof, before.root, after.root)
    if not holds:
        raise ProofFailed(
            "fork",
            f"the root {before.root.hex()} at {counted(before.size, 'record')}",
            "another history",
        )
    return proof


def _require_no_rollback(before: int, after: int) -> None:
    if after < before:
        raise ProofFailed(
            "rollback", f"at least {counted(before, 'record')}", counted(after, "record")
        )


def _require_root(leaves: Leaves, signed: TreeHead) -> None:
    if len(leaves) < signed.size:
        raise ProofFailed(
            "truncated behind a signed checkpoint",
            counted(signed.size, "record"),
            counted(len(leaves), "record"),
        )
    root = tree.tree_root(leaves, 0, signed.size)
    if root != signed.root:
        raise ProofFailed("trees disagree", signed.root.hex(), root.hex())


def _records(directory: Path, count: int) -> Iterator[bytes]:
    """Yield the bytes of the first `count` records, which are the data of the tree's leaves."""
    log = directory / store.LOG
    for number, line in enumerate(islice(lines(log, size_of(log)), count), 1):
        try:
            data = _payload_decoder.decode(line).event_json.encode()
        except MALFORMED as error:
            raise LogUnreadable(
                f"line {number} of {log} is no record",
                hint=f"nono-trio audit verify {directory.name}",
            ) from error
        yield data


def _heads_in(path: Path) -> Iterator[SignedHead]:
    for line in lines(path, size_of(path)):
        if not line.endswith(b"\n"):
            break  # torn, or being written
        try:
            note = decode_checkpoint(line).note
            head = parse_head(note.encode()) if isinstance(note, str) else None
        except (*MALFORMED, ValueError) as error:
            raise LogUnreadable(f"{path} is damaged: {error}") from error
        if head is not None:
            yield head


def _last(heads: Iterator[SignedHead]) -> SignedHead | None:
    """Return the last one; a long session has hundreds of thousands, and only one is held."""
    return next(iter(deque(heads, maxlen=1)), None)
