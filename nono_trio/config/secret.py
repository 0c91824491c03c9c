"""Secrets by reference: `env://VARIABLE` and `file://PATH`, so that none is on a command line.

Rules of this file: a secret is never part of an error; a file is read once, whole, and must be a
regular one of bounded size.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT: Final = "env://"
FILE: Final = "file://"
MAX_SECRET: Final = 4096  # bytes; passwords and keys are far shorter


def secret_variable(reference: str | None) -> str | None:
    """The variable that a reference names, which a child must not be given; None for others."""
    if reference is None or not reference.startswith(ENVIRONMENT):
        return None
    return reference.removeprefix(ENVIRONMENT)


def read_secret(flag: str, reference: str, environ: Mapping[str, str]) -> bytes:
    """The secret that `reference` names, without a final line break; raises UsageError."""
    variable = secret_variable(reference)
    if variable is not None:
        if variable not in environ:
            raise UsageError(
                f"{flag}: the variable {variable!a} is not set",
                hint="export it, or use file://PATH",
            )
        return _bounded(flag, environ[variable].encode("utf-8", "surrogateescape"))
    if not reference.startswith(FILE):
        raise UsageError(
            f"{flag}: expected env://VARIABLE or file://PATH",  # it may be the secret itself
            hint=f"as in {FILE}~/secret, in a file of mode 0600",
        )
    path = Path(expand_home(reference.removeprefix(FILE)))
    try:
        with open_regular(path) as file:
            return _bounded(flag, file.read(MAX_SECRET + 2))
    except OSError as error:
        reason = error.strerror or "it can't be read"
        raise UsageError(
            f"{flag}: {path}: {reason.lower()}",
            hint=f"look at it: ls -ld {shlex.quote(str(path))}",
        ) from error


def _bounded(flag: str, secret: bytes) -> bytes:
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(secret) <= MAX_SECRET:
        raise UsageError(
            f"{flag}: expected 1 to {MAX_SECRET} bytes, got {len(secret)}",
            hint="a source gives the secret alone; see what this one has",
        )
    return secret
