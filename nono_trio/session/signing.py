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
    from collections.abc import Callable, Mapping

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.write.ledger_signer import Follower
    from nono_trio.config.options import AuditOptions, RunOptions, SessionOptions
    from nono_trio.core.policy.network_policy import Policy
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.session.tokens.token_endpoint import Route


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


def run_followers(options: RunOptions, policy: Policy, files: FilePlan) -> list[Follower]:
    """Return who is told of the ledger's checkpoints after a run; raises UsageError."""
    audit = options.session.audit
    opened = OpenedFiles(files, sandbox=options.sandbox)
    anchors = _anchors(audit, options.environment, opened.may_write)
    if not audit.witnesses:
        return anchors
    from nono_trio.session.trust.token_route import token_route  # late: few runs have a witness

    route = token_route(
        options.session.network,
        policy,
        options.environment,
        can_read=opened.reader,
        may_write=opened.may_write,
    )
    return [*anchors, *_witnesses(audit, route)]


def proxy_followers(options: SessionOptions, policy: Policy) -> list[Follower]:
    """As `run_followers`, for a proxy without a command."""
    environment = caller_environment()
    anchors = _anchors(options.audit, environment, lambda _path: False)
    if not options.audit.witnesses:
        return anchors
    from nono_trio.session.trust.token_route import token_route  # late: few have a witness

    return [
        *anchors,
        *_witnesses(options.audit, token_route(options.network, policy, environment)),
    ]


def _anchors(
    audit: AuditOptions, environment: Mapping[str, str], may_write: Callable[[str], bool]
) -> list[Follower]:
    if audit.anchor_command is None:
        return []
    words = command_words(ANCHOR_FLAG, audit.anchor_command, environment, may_write)
    return [AnchorCommand(audit_root(audit.state_root), words, environment)]


def _witnesses(audit: AuditOptions, route: Route) -> list[Follower]:
    from nono_trio.config.witness_options import parse_witnesses
    from nono_trio.session.witness import Witness  # late: it brings TLS

    root = audit_root(audit.state_root)
    return [Witness(root, one, route) for one in parse_witnesses(audit.witnesses)]


def proxy_signer(audit: AuditOptions) -> Signer | None:
    """Return the signer of a proxy without a command; raises UsageError."""
    if audit.sign_key is None:
        return None
    forbid_core_dumps()
    return open_signer(audit.sign_key, audit.state_root, caller_environment())
