"""The system calls that create a file, and whether a waiting thread is in one.

A look-up itself does not say whether its caller reads or creates; the thread's call does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from .call_numbers import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_CREATE: Final = os.O_CREAT | 0o20000000  # __O_TMPFILE
# Calls that make something at a path; for the first two, which argument has the flags.
_OPENING: Final = {"open": 1, "openat": 2}
_CREATING: Final = (
    "creat", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat",
    "rename", "renameat", "renameat2", "bind",
)  # fmt: skip


def creating_calls() -> dict[int, int]:
    """The numbers of the calls that may make something, with the place of their flags (0: none)."""
    named = {**dict.fromkeys(_CREATING, 0), **_OPENING}
    found = {number_of(name): place for name, place in named.items()}
    return {number: place for number, place in found.items() if number is not None}


def creates_file(thread: int, calls: Mapping[int, int]) -> bool | None:
    """Return whether the thread is in one of `calls` that creates a file; it waits meanwhile.

    None: not known. An ordinary user can't see the calls of a program that it may not read.
    """
    try:
        with open(f"/proc/{thread}/syscall", "rb", buffering=0) as file:
            words = file.read(256).split()
        call = calls.get(int(words[0]))
        if call is None:
            return False
        return call == 0 or bool(int(words[1 + call], 16) & _CREATE)
    except PermissionError:
        return None
    except (OSError, ValueError, IndexError):
        return False
