"""Hands the ledger's signed checkpoint to a command that keeps it elsewhere (--anchor-command).

Rules of this file: the note is on the command's stdin. It has ANCHOR_SECONDS, and nothing waits for
it but the end of the run. Each try is recorded beside the ledger. A try that failed is made up for
by the next one, whose checkpoint covers the same lines.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from nono_trio.audit.ledger import LEDGER_ANCHORS
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.ledger_signer import NotPublished
from nono_trio.core.log.ledger_anchor import LedgerAnchor, encode_ledger_anchor
from nono_trio.core.proof import base64_text
from nono_trio.posix.bounded_command import BoundedCommand, CommandFailed
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.owner import as_owner_of_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nono_trio.audit.ledger_heads import LedgerHead

ANCHOR_FLAG: Final = "--anchor-command"
# An upload of 300 bytes takes a second; the run does not end before.
ANCHOR_SECONDS: Final = 10.0
# A receipt (RFC 3161) has some 6 KB; a line with it must stay below ledger_append.MAX_LINE.
MAX_ANSWER: Final = 32 * 1024


class AnchorCommand:
    """The command as `key_store.command_words` gives it, and the environment that it gets."""

    def __init__(
        self, audit_root: Path, words: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._root = audit_root
        self._name = os.path.basename(words[0])  # its arguments may have a secret
        self._command = BoundedCommand(words, environment, most=MAX_ANSWER)

    def publish(self, head: LedgerHead) -> None:
        """Give the note to the command and record its answer; raises NotPublished, AuditLost and
        OSError."""
        name, code, output, reason = self._name, None, b"", None
        try:
            code, output, _ = self._command.ask(head.note, ANCHOR_SECONDS)
        except CommandFailed as failed:
            reason = str(failed)
        line = LedgerAnchor(
            time=rfc3339(),
            origin=head.head.origin,
            event_count=head.head.size,
            program=name,
            exit_code=code,
            reason=reason,
            answer=base64_text.encode(output),
        )
        with as_owner_of_path(self._root), ledger_append.locked(self._root):
            ledger_append.append_line_locked(self._root, LEDGER_ANCHORS, encode_ledger_anchor(line))
        if code != 0:
            reason = reason or f"ended with exit code {code}"
            raise NotPublished(f"{ANCHOR_FLAG}: {name} {reason}; the next session tries again")

    def stop(self) -> None:
        """End the command, from another thread."""
        self._command.stop()
