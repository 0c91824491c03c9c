"""--public-key-file: the public keys of the signer, from another place than the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.cli.parameters import PATH
from nono_trio.cli.shared_flags import option
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.private_file import unreadable
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from nono_trio.core.proof.public_keys import PublicKeys

FLAG = "--public-key-file"

public_key_option = option(
    FLAG,
    type=PATH,
    metavar="FILE",
    help="Public keys that the log must be signed with, as `nono-trio keys export` prints them.",
)


def read_public_keys(path: str) -> PublicKeys:
    """Return the keys in a file; raises UsageError."""
    from nono_trio.core.proof.public_keys import MAX_PEM, parse_public_keys

    try:
        return parse_public_keys(read_whole(Path(expand_home(path)), MAX_PEM))
    except OSError as error:
        raise unreadable(FLAG, path, error) from error
    except ValueError as error:
        raise UsageError(
            f"{FLAG}: {path}: {error}", hint="`nono-trio keys export > audit-key.pem` makes it"
        ) from error
