"""Files with a key in them: their owner's alone, with one name, opened once.

The checks are of the opened file, not of its name. No error has a byte of the file.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.safe_open import open_regular

MAX_KEY: Final = 64 * 1024  # bytes; an RSA key of 16,384 bits has 13 KiB


def read_private(flag: str, named: str) -> bytes:
    """Read a file that is its owner's alone; `flag` named it. Raises UsageError."""
    try:
        with open_regular(Path(expand_home(named))) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_KEY + 1)
    except OSError as error:
        raise unreadable(flag, named, error) from None
    quoted = shlex.quote(expand_home(named))
    if status.st_uid not in (os.geteuid(), 0):
        raise UsageError(
            f"{flag}: expected a file of yours, got {named} of another user",
            hint=f"copy it: install -m 600 {quoted} MY-KEY",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise UsageError(
            f"{flag}: expected a file that its owner alone can read (0600), got {named} with"
            f" {mode:04o}",
            hint=f"chmod 600 {quoted}",
        )
    if status.st_nlink != 1:
        raise UsageError(
            f"{flag}: expected a file with one name, got {named} with {status.st_nlink}: the"
            " command may know another",
            hint=f"copy it: install -m 600 {quoted} MY-KEY",
        )
    return data[:MAX_KEY]


def program_hint(word: str) -> str:
    """Return what helps where a command line names no program that can be run."""
    path = expand_home(word)
    if "/" not in path:
        return "give its path: /PATH/TO/PROGRAM"
    quoted = shlex.quote(os.path.abspath(path))
    return f"chmod +x {quoted}" if os.path.isfile(path) else f"look for it: ls -ld {quoted}"


def unreadable(flag: str, path: str, error: OSError) -> UsageError:
    """Return the error about a file that a flag named."""
    return UsageError(
        f"{flag}: {path} can't be read: {error.strerror or error}",
        hint=f"look at it: ls -l {shlex.quote(path)}",
    )
