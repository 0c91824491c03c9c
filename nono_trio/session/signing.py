"""The signer of a run or a proxy, found and tried before anything is made, and the command that
gets the signed checkpoints of the ledger.

Rules of this file: the command must not be able to read the key, nor to choose what runs outside of
the cage: the program, its interpreter, a file that its command line names, a directory of its PATH,
the keyring's settings. What runs there gets no variable of this session's credentials. A process
with a key in its memory dumps no core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit.keys.key_store import (
    COMMAND,
    KEYRING,
    SIGN_FLAG,
    command_signer,
    command_words,
    open_signer,
    signing_command,
)
from nono_trio.audit.store import audit_root
from nono_trio.audit.write.ledger_anchor import ANCHOR_FLAG, AnchorCommand
from nono_trio.core.credentials import credential
from nono_trio.session.core_dumps import forbid_core_dumps
from nono_trio.session.credentials.access import (
    check_source,
    outside_environment,
    without_credentials,
)
from nono_trio.session.opened_files import OpenedFiles
from nono_trio.startup import caller_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    environment: Mapping[str, str] = options.environment
    if audit.sign_key.startswith(COMMAND):
        environment = without_credentials(environment, options.session.network.credentials)
        words = signing_command(audit.sign_key, environment)
        environment = _outside(SIGN_FLAG, words, opened, environment)
        return None if dry else command_signer(words, environment)
    if audit.sign_key.startswith(KEYRING):
        check_source(SIGN_FLAG, credential.Source(credential.KEYRING, ()), opened, environment)
    return open_signer(audit.sign_key, audit.state_root, environment, opened.reader)


def run_followers(options: RunOptions, policy: Policy, files: FilePlan) -> list[Follower]:
    """Return the followers that get the ledger's checkpoints after a run; raises UsageError."""
    audit = options.session.audit
    opened = OpenedFiles(files, sandbox=options.sandbox)
    anchors = _anchors(options.session, options.environment, opened)
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
    anchors = _anchors(options, environment, None)
    if not options.audit.witnesses:
        return anchors
    from nono_trio.session.trust.token_route import token_route  # late: few have a witness

    return [
        *anchors,
        *_witnesses(options.audit, token_route(options.network, policy, environment)),
    ]


def _anchors(
    options: SessionOptions, environment: Mapping[str, str], opened: OpenedFiles | None
) -> list[Follower]:
    audit = options.audit
    if audit.anchor_command is None:
        return []
    environment = without_credentials(environment, options.network.credentials)
    words = command_words(ANCHOR_FLAG, audit.anchor_command, environment)
    if opened is not None:
        environment = _outside(ANCHOR_FLAG, words, opened, environment)
    return [AnchorCommand(audit_root(audit.state_root), words, environment)]


def _outside(
    flag: str, words: Sequence[str], opened: OpenedFiles, environment: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the environment of a command outside of the cage: it leads to nothing that the caged
    command may write.

    Raises UsageError for a command that the caged one could change.
    """
    source = credential.Source(credential.COMMAND, tuple(words))
    check_source(flag, source, opened, environment)
    return outside_environment(environment, opened)


def _witnesses(audit: AuditOptions, route: Route) -> list[Follower]:
    from nono_trio.config.witness_options import parse_witnesses
    from nono_trio.session.witness import Witness  # late: it brings TLS

    root = audit_root(audit.state_root)
    return [Witness(root, one, route) for one in parse_witnesses(audit.witnesses)]


def proxy_signer(options: SessionOptions) -> Signer | None:
    """Return the signer of a proxy without a command; raises UsageError."""
    audit = options.audit
    if audit.sign_key is None:
        return None
    forbid_core_dumps()
    environment = without_credentials(caller_environment(), options.network.credentials)
    return open_signer(audit.sign_key, audit.state_root, environment)
