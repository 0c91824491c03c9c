"""Signs the ledger after a keyed session has added its line to it.

Rules of this file: the tree is read, and the checkpoint is appended, under the ledger's lock; the
signer works without it, because a key service may take longer than others wait for the lock. A
ledger that contradicts the last checkpoint of this key is never signed again: a second history
under one key would hide the first. A failure loses nothing, the next keyed session signs these
lines too. Each call reads the whole ledger. It blocks.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Protocol

import msgspec

from nono_trio.audit.keys.signer import signed_note
from nono_trio.audit.ledger import LEDGER, LEDGER_CHECKPOINTS
from nono_trio.audit.ledger_heads import (
    BadLedgerHead,
    LedgerHead,
    largest_head,
    read_tree,
)
from nono_trio.audit.write import ledger_append
from nono_trio.core.log.ledger_checkpoint import (
    LedgerCheckpoint,
    encode_ledger_checkpoint,
    signed_line,
)
from nono_trio.core.log.shown_text import counted
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.tree_head import TreeHead, ledger_origin
from nono_trio.errors import AuditLost, NonoTrioError
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.owner import as_owner_of_path

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.keys.signer import Signer


class NotPublished(NonoTrioError):
    """A follower did not take a checkpoint."""


class Follower(Protocol):
    """Gets each checkpoint once it is on the disk."""

    def publish(self, head: LedgerHead) -> None:
        """Hand on a checkpoint; blocks for seconds. Raises NotPublished, AuditLost and OSError."""
        ...

    def stop(self) -> None:
        """End `publish` in another thread, soon; blocks for a moment at most."""
        ...


class LedgerSigner:
    """Signs the ledger in one directory with one key."""

    def __init__(self, audit_root: Path, signer: Signer) -> None:
        self.followers: list[Follower] = []
        """Told of the last checkpoint."""
        self._root = audit_root
        self._path = audit_root / LEDGER_CHECKPOINTS
        self._signer = signer
        self._key = signer.public.note

    def newest(self) -> LedgerHead | None:
        """Return the last checkpoint of this key; raises AuditLost if it is not good,
        LogUnreadable."""
        return self._last_head()

    def stop(self) -> None:
        """End what the signer and the followers do in other threads; they can't be used again.
        Blocks for a moment."""
        self._signer.stop()
        for follower in self.followers:
            follower.stop()

    def sign(self) -> LedgerCheckpoint | None:
        """Append a signed checkpoint of the whole ledger, durably; None if there is one already.

        Raises AuditLost if the ledger contradicts what this key has signed, or the lock stays
        taken; LogUnreadable; OSError, and SignerFailed among them.
        """
        with as_owner_of_path(self._root), ledger_append.locked(self._root):
            head = self._next_head()
        if head is None:
            return None
        checkpoint = self._signed(head)
        with as_owner_of_path(self._root), ledger_append.locked(self._root):
            last = self._last_head()
            if last is not None and last.head.size >= head.size:  # another session was faster
                return None
            ledger_append.append_line_locked(
                self._root, LEDGER_CHECKPOINTS, encode_ledger_checkpoint(checkpoint)
            )
        return checkpoint

    def _next_head(self) -> TreeHead | None:
        last = self._last_head()
        size = 0 if last is None else last.head.size
        tree = read_tree(self._root / LEDGER, [size])
        if tree.size < size:
            raise self._refused(
                f"it has {counted(tree.size, 'line')}, and this key has signed {size}"
            )
        if last is not None and tree.roots[size] != last.head.root:
            raise self._refused(f"its first {size} lines are not those that this key has signed")
        if tree.size == size:
            return None
        return TreeHead(ledger_origin(self._key), tree.size, tree.root)

    def _last_head(self) -> LedgerHead | None:
        try:
            return largest_head(self._path, self._key)
        except BadLedgerHead as bad:
            raise self._refused(
                f"line {bad.line} of {LEDGER_CHECKPOINTS} is no checkpoint: {bad.failure}"
            ) from None

    def _refused(self, reason: str) -> AuditLost:
        state = shlex.quote(str(self._root.parent))
        return AuditLost(
            f"the ledger is tampered, and is not signed: {reason}",
            hint=f"`nono-trio audit ledger verify --audit-dir {state}` says where; a new key"
            " (`nono-trio keys generate --id NAME`) begins a new row of checkpoints",
        )

    def _signed(self, head: TreeHead) -> LedgerCheckpoint:
        checkpoint = LedgerCheckpoint(
            time=rfc3339(),
            event_count=head.size,
            key=base64_text.encode(self._key),
            note=signed_note(self._signer, head),
        )
        over_line = self._signer.sign_note(signed_line(checkpoint))
        return msgspec.structs.replace(checkpoint, line_signature=base64_text.encode(over_line))
