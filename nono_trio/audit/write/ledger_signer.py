"""Signs the ledger after a keyed session has added its line to it.

Rules of this file: the tree is read, and the checkpoint is appended, under the ledger's lock; the
signer works without it, because a key service may take longer than others wait for the lock. A
ledger that contradicts the last checkpoint of this key is never signed again: a second history
under one key would hide the first. A failure loses nothing, the next keyed session signs these
lines too. Each call reads the whole ledger. It blocks.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from nono_trio.audit.keys.signer import SIGN_SECONDS, signed_note
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
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.tree_head import TreeHead, ledger_origin
from nono_trio.errors import AuditLost, NonoTrioError
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.owner import as_owner_of_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nono_trio.audit.keys.signer import Signer

# Two signatures, and the lock twice.
SECONDS: Final = 2 * (SIGN_SECONDS + ledger_append.LOCK_SECONDS)


class NotPublished(Exception):
    """A follower did not take a checkpoint; the text is a sentence for the user."""


class Follower(Protocol):
    """Whoever is told of a checkpoint after it is on the disk."""

    @property
    def seconds(self) -> float:
        """The longest time of `publish`."""
        ...

    def publish(self, head: LedgerHead) -> None:
        """Hand on a checkpoint; blocks. Raises NotPublished, AuditLost and OSError."""
        ...


class LedgerSigner:
    """Signs the ledger in one directory with one key."""

    def __init__(self, audit_root: Path, signer: Signer) -> None:
        self.followers: list[Follower] = []
        """Told of the last checkpoint, in this order."""
        self._root = audit_root
        self._path = audit_root / LEDGER_CHECKPOINTS
        self._signer = signer
        self._key = signer.public.note

    @property
    def seconds(self) -> float:
        """The longest time of `sign` and `publish`, without the reading."""
        return SECONDS + sum(one.seconds for one in self.followers)

    def publish(self, warn: Callable[[str], None]) -> None:
        """Hand the last checkpoint to the followers; `warn` gets the failure of each.

        Raises AuditLost and LogUnreadable if there is no good checkpoint.
        """
        last = self._last_head() if self.followers else None
        if last is None:
            return
        for follower in self.followers:
            try:
                follower.publish(last)
            except (NotPublished, NonoTrioError, OSError) as error:
                warn(f"warning: {error}")

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
            raise self._refused(f"it has {tree.size} lines, and this key has signed {size}")
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
