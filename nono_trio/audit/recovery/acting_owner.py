"""Lets root verify a session as the user in whose directories it is.

Rules of this file: what a verification of signed sessions imports late is loaded before root acts
as that user, who may not be allowed to read the program (it is in root's home, say).
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Final

from nono_trio.posix.owner import as_owner, foreign_owner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LATE: Final = (
    "cryptography.exceptions",
    "cryptography.hazmat.backends.openssl.backend",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.serialization",
    "nono_trio.audit.keys.key_store",
    "nono_trio.audit.keys.signature",
    "nono_trio.audit.ledger_heads",
    "nono_trio.audit.recovery.recover_command",
    "nono_trio.audit.verify.carried_ledger",
    "nono_trio.audit.verify.ledger_cosignatures",
    "nono_trio.audit.verify.ledger_signatures",
    "nono_trio.audit.write.checkpoint_signer",
    "nono_trio.audit.write.ledger_signer",
    "nono_trio.core.log.attestation",
    "nono_trio.core.proof.base64_text",
    "nono_trio.core.proof.note",
    "nono_trio.core.proof.proof_file",
    "nono_trio.core.proof.public_keys",
    "nono_trio.core.proof.tree",
    "nono_trio.core.proof.tree_head",
)


@contextlib.contextmanager
def as_verifying_owner(path: Path) -> Iterator[None]:
    """As `as_owner`, for a block that verifies or seals a session; raises OSError."""
    if foreign_owner(path) is not None:
        for name in _LATE:
            importlib.import_module(name)
    with as_owner(path):
        yield
