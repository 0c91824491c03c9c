"""Reading the ledger's signed checkpoints, and the tree that they are about.

Rules of this file: reading takes no lock. Each checkpoint is checked by the key that it names;
whether that is the right key is for the caller. A torn last line is what a crash leaves, and is
left out. Every whole line of the ledger is a leaf, a damaged one too.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.audit import ledger as ledgers
from nono_trio.audit.keys.signature import is_ed25519, note_fault
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.ledger_checkpoint import (
    decode_ledger_checkpoint,
    encode_ledger_checkpoint,
    signed_line,
)
from nono_trio.core.log.shown_text import counted
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.note import parse_note
from nono_trio.core.proof.tree import Frontier, leaf_hash
from nono_trio.core.proof.tree_head import TreeHead, ledger_origin, parse_tree_head

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


class LedgerHead(NamedTuple):
    """A checkpoint that `key` (Ed25519, 32 bytes) has signed; `line` is its place in the file, from
    1, `note` the signed note."""

    line: int
    head: TreeHead
    key: bytes
    note: bytes


class BadLedgerHead(Exception):
    """A line of the file is no checkpoint that its own key has signed; `line` counts from 1."""

    def __init__(self, line: int, failure: str, expected: str, got: str) -> None:
        super().__init__(failure)
        self.line = line
        self.failure = failure
        self.expected = expected
        self.got = got


class Tree(NamedTuple):
    """A ledger's tree: the number of its whole lines, the root, and the roots at earlier sizes."""

    size: int
    root: bytes
    roots: dict[int, bytes]


def read_heads(path: Path, key: bytes | None = None, *, notes: bool = True) -> Iterator[LedgerHead]:
    """Yield the checkpoints in a file, in order; only those of `key` if it is given.

    Without `notes` only the signature over each line is checked. It covers the note too, so only
    the key's owner can have changed that. `require_note` makes up for it. Yields nothing without a
    file.
    Raises BadLedgerHead, and LogUnreadable.
    """
    for number, _, line in ledgers.numbered_lines(path):
        if not line.endswith(b"\n"):
            return
        head = _checked(line, number, key)
        if head is not None:
            if notes:
                require_note(head)
            yield head


def require_note(one: LedgerHead) -> None:
    """Check the signature of a checkpoint's note, which standard tools see; raises
    BadLedgerHead."""
    fault = note_fault(parse_note(one.note), one.head.origin, one.key)
    if fault is not None:
        raise BadLedgerHead(one.line, *fault)


def origins_named(path: Path) -> set[str]:
    """Return the origins of the keys that the checkpoints in a file name; no signature is checked.
    Raises LogUnreadable."""
    keys = set[str]()
    for _, _, line in ledgers.numbered_lines(path):
        with suppress(*MALFORMED):
            keys.add(decode_ledger_checkpoint(line).key)
    origins = set[str]()
    for key in keys:
        with suppress(ValueError):
            origins.add(ledger_origin(base64_text.decode_hash(key)))
    return origins


def largest_head(path: Path, key: bytes) -> LedgerHead | None:
    """Return the checkpoint of a key with the most lines; the signatures of others are not
    checked. Raises BadLedgerHead if that one is not good, LogUnreadable."""
    named, most, found = base64_text.encode(key), -1, None
    for number, _, line in ledgers.numbered_lines(path):
        if not line.endswith(b"\n"):
            break
        try:
            checkpoint = decode_ledger_checkpoint(line)
        except MALFORMED as error:
            raise BadLedgerHead(number, "parse error", "a checkpoint", str(error)) from error
        if checkpoint.key == named and checkpoint.event_count >= most:
            most, found = checkpoint.event_count, (line, number)
    last = None if found is None else _checked(*found, key)
    if last is not None:
        require_note(last)
    return last


def read_tree(ledger: Path, sizes: Collection[int] = ()) -> Tree:
    """Return the tree of a ledger, with its roots at the sizes that it reaches; raises
    LogUnreadable."""
    frontier, roots = Frontier(), dict[int, bytes]()
    wanted = frozenset(sizes)
    if 0 in wanted:
        roots[0] = frontier.root()
    for leaf in ledger_leaves(ledger):
        frontier.append(leaf_hash(leaf))
        if len(frontier) in wanted:
            roots[len(frontier)] = frontier.root()
    return Tree(len(frontier), frontier.root(), roots)


def ledger_leaves(ledger: Path) -> Iterator[bytes]:
    """Yield the data of the leaves: whole lines without their newlines; raises LogUnreadable."""
    for _, _, line in ledgers.numbered_lines(ledger):
        if not line.endswith(b"\n"):
            return
        yield line[:-1]


def _checked(line: bytes, number: int, only: bytes | None) -> LedgerHead | None:
    """Return the checkpoint in a line whose signature over the line is good; raises
    BadLedgerHead."""
    try:
        checkpoint = decode_ledger_checkpoint(line)
        key = base64_text.decode_hash(checkpoint.key)
        if only not in (None, key):
            return None
        note = parse_note(checkpoint.note.encode())
        head = parse_tree_head(note.text)
        over_line = base64_text.decode(checkpoint.line_signature or "")
    except (*MALFORMED, ValueError, UnicodeError, TypeError) as error:
        raise BadLedgerHead(number, "parse error", "a signed checkpoint", str(error)) from error
    if encode_ledger_checkpoint(checkpoint) != line:
        raise BadLedgerHead(number, "line not canonical", "our spelling", "another")
    origin = ledger_origin(key)
    signature = note.signature_of(origin, key)
    if head.origin != origin or signature is None:
        raise BadLedgerHead(number, "key mismatch", f"a note of {origin}", head.origin)
    if not is_ed25519(key, over_line, signed_line(checkpoint)):
        raise BadLedgerHead(number, "signature mismatch", "a signature of the line", "another")
    if head.size != checkpoint.event_count:
        got = f"{head.size} in the note"
        raise BadLedgerHead(number, "trees disagree", counted(checkpoint.event_count, "line"), got)
    return LedgerHead(number, head, key, checkpoint.note.encode())
