"""Proofs that a ledger only grew since a signed checkpoint of it.

Rules of this file: as those of proofs.py. A ledger that is here is compared as it is, whether its
last lines are signed or not.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.audit.ledger import LEDGER, LEDGER_CHECKPOINTS
from nono_trio.audit.ledger_heads import (
    BadLedgerHead,
    ledger_leaves,
    read_heads,
    read_tree,
    require_note,
)
from nono_trio.audit.verify import proofs
from nono_trio.core.proof.tree_head import TreeHead, ledger_origin
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.verify.proofs import SignedHead


class Growth(NamedTuple):
    """A proof that `after` continues `before`."""

    before: TreeHead
    after: TreeHead
    proof: list[bytes]


def is_checkpoints_file(path: Path) -> bool:
    """Return whether a file is a copy of a ledger's checkpoints, by its name or first line."""
    first = proofs.first_line(path)
    return path.name == LEDGER_CHECKPOINTS or (first.startswith(b"{") and b'"key":"' in first)


def last_head(path: Path, key: bytes | None = None) -> SignedHead:
    """Return the last checkpoint in a copy of a ledger's checkpoints, of `key` if it is given.

    Raises ProofFailed for a bad signature, LogUnreadable for a file without one.
    """
    try:
        heads = deque(read_heads(path, key, notes=False), maxlen=1)
        for last in heads:
            require_note(last)
    except BadLedgerHead as bad:
        raise proofs.ProofFailed(bad.failure, bad.expected, bad.got) from bad
    if not heads:
        raise LogUnreadable(
            f"{path} has no checkpoint of that key",
            hint="`nono-trio keys list` shows the keys that are here",
        )
    return proofs.parse_head(heads[0].note)


def key_of(root: Path, origin: str, path: Path) -> bytes | None:
    """Return the key of an origin, as the checkpoints in `path` or in the state directory name it;
    raises ProofFailed, LogUnreadable."""
    places = (path, root / LEDGER_CHECKPOINTS)
    try:
        for place in (one for one in places if is_checkpoints_file(one)):
            for head in read_heads(place):
                if ledger_origin(head.key) == origin:
                    return head.key
    except BadLedgerHead as bad:
        raise proofs.ProofFailed(bad.failure, bad.expected, bad.got) from bad
    return None


def prove_ledger_growth(old: SignedHead, ledger: Path, new: SignedHead | None = None) -> Growth:
    """Prove that a ledger continues a signed checkpoint, up to `new` or to its end.

    Raises ProofFailed: rollback (it has fewer lines), fork (other lines); LogUnreadable.
    """
    if new is None:
        tree = read_tree(ledger)
        after = TreeHead(old.head.origin, tree.size, tree.root)
    else:
        after = new.head
    leaves = islice(ledger_leaves(ledger), after.size)
    return Growth(old.head, after, proofs.prove_growth(old.head, after, leaves))


def ledger_of(root: Path, named: Path) -> Path:
    """Return the ledger beside a file with checkpoints; without one, that of the state
    directory."""
    beside = named.with_name(LEDGER)
    return beside if named.name == LEDGER_CHECKPOINTS and beside.exists() else root / LEDGER
