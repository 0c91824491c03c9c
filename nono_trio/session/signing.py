"""The signer of a run or a proxy, found and tried before anything is made, and the command that
gets the signed checkpoints of the ledger.

Rules of this file: the command must not be able to read the key, nor to write the program that
signs. A process with a key in its memory dumps no core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit.keys.key_store import (
    COMMAND,
    command_words,
    open_signer,
    signing_command,
)
from nono_trio.audit.store import audit_root
from nono_trio.audit.write.ledger_anchor import ANCHOR_FLAG, AnchorCommand
from nono_trio.session.core_dumps import forbid_core_dumps
from nono_trio.session.opened_files import OpenedFiles
from nono_trio.startup import caller_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.write.session_record import SessionRecord
    from nono_trio.config.options import AuditOptions, RunOptions
    from nono_trio.sandbox.filesystem.plan import FilePlan


def run_signer(options: RunOptions, files: FilePlan, *, dry: bool = False) -> Signer | None:
    """Return the signer of a run; None without --audit-sign-key. Raises UsageError.

    `dry`: no command is run for it.
    """
    audit = options.session.audit
    if audit.sign_key is None:
        return None
    opened = OpenedFiles(files, sandbox=options.sandbox)
    if dry and audit.sign_key.startswith(COMMAND):
        signing_command(audit.sign_key, options.environment, opened.may_write)
        return None
    return open_signer(
        audit.sign_key, audit.state_root, options.environment, opened.reader, opened.may_write
    )


def run_anchor(options: RunOptions, files: FilePlan) -> list[str]:
    """Return the words of a run's --anchor-command, none without it; raises UsageError."""
    line = options.session.audit.anchor_command
    if line is None:
        return []
    opened = OpenedFiles(files, sandbox=options.sandbox)
    return command_words(ANCHOR_FLAG, line, options.environment, opened.may_write)


def proxy_anchor(audit: AuditOptions) -> list[str]:
    """Return the words of a proxy's --anchor-command, none without it; raises UsageError."""
    if audit.anchor_command is None:
        return []
    return command_words(ANCHOR_FLAG, audit.anchor_command, caller_environment(), lambda _: False)


def follow_ledger(
    record: SessionRecord, audit: AuditOptions, words: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Have whoever the options name told of the ledger's checkpoints; all is imported now."""
    signer = record.ledger_signer
    if signer is not None and words:
        root = audit_root(audit.state_root)
        signer.followers.append(AnchorCommand(root, words, environment))


def proxy_signer(audit: AuditOptions) -> Signer | None:
    """Return the signer of a proxy without a command; raises UsageError."""
    if audit.sign_key is None:
        return None
    forbid_core_dumps()
    return open_signer(audit.sign_key, audit.state_root, caller_environment())
