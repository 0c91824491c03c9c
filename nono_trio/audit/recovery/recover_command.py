"""The command that seals a crashed session, as hints show it.

The end of a signed session is signed by its recovery or never. So the command has the flag for the
key, by its name where the key is in the state directory.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from nono_trio.audit.verify.signatures import SignatureCheck
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.core.proof.public_keys import PublicKeys


def recover_command(directory: Path) -> str:
    """Return the command; raises nothing for a session that can't be read."""
    command, flag = f"nono-trio audit recover {directory.name}", sign_flag(directory)
    return command if flag is None else f"{command} {flag}"


def sign_flag(directory: Path) -> str | None:
    """Return the flag that has the session's end signed; None for a session without a key."""
    keys = SignatureCheck.of(directory).keys
    if keys is None:
        return None
    from nono_trio.audit.keys.key_store import SIGN_FLAG  # late: few sessions are signed

    return f"{SIGN_FLAG} {_name_of(keys, directory.resolve().parent.parent)}"


def _name_of(keys: PublicKeys, state_root: Path) -> str:
    from nono_trio.audit.keys.key_store import stored_keys

    with suppress(LogUnreadable):
        for stored in stored_keys(state_root):
            if stored.signer is not None and stored.signer.public == keys:
                return stored.name
    return "KEY"
