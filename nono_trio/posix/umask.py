"""The caller's umask: the command gets it whole, our own files keep the owner's permissions.

With the owner's bits in it (0177), our directories and the cage's could not be entered by their
owner.
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
