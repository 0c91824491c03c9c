"""The caller's umask: it is the command's, and takes nothing from the owner of our own files.

A umask without the owner's bits (0177) would leave directories that nobody can enter, ours and the
cage's.
"""

from __future__ import annotations

import os

_OTHERS = 0o077
_callers: int | None = None


def keep_owners_bits() -> None:
    """Drop the owner's bits from this process' umask; call it once, before there are threads."""
    global _callers
    _callers = os.umask(_OTHERS)
    os.umask(_callers & _OTHERS)


def callers_umask() -> int:
    """Return the umask that the caller had."""
    if _callers is not None:
        return _callers
    found = os.umask(_OTHERS)
    os.umask(found)
    return found
