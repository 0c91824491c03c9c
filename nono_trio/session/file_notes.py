"""The notes after a run about files that were looked up and are not granted.

Rules of this file: a suggested flag works when pasted, so protected and missing paths get no flag.
A directory just below the root gets none either, because the record does not say which part of it
the command wanted. The disk is not looked at: the program chose the paths, and one of them may be
on a file system that hangs. Creates come first, then the home. `audit show` alone lists system
directories and the directories of PATH: every program looks for files there that no user means to
grant.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.file_events import access_word
from nono_trio.posix.paths import home_directory, is_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.sandbox.denied_files import DeniedFile
    from nono_trio.sandbox.filesystem.plan import FilePlan

SHOWN: Final = 5  # one line of a terminal; `audit show` has the rest
_SYSTEM: Final = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/run", "/sbin", "/sys", "/usr", "/var")


def file_notes(
    denied: Sequence[DeniedFile], files: FilePlan, search: Sequence[str]
) -> Iterator[str]:
    """Yield the sentences about `denied`; `files`: the grants, `search`: the command's PATH."""
    told = sorted((one for one in denied if is_of_user(one.path, one.access, search)), key=_weight)
    if not told:
        return
    shown = ", ".join(f"{_short(one.path)} ({access_word(one.access)})" for one in told[:SHOWN])
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    count = "1 file" if len(told) == 1 else f"{len(told)} files"
    yield f"{count} not granted: {shown}{more}"
    flags = [flag for one in told[:SHOWN] if (flag := _flag(one, files)) is not None]
    if flags:
        yield f"to allow: {' '.join(flags)}"


def is_of_user(path: str, access: str, search: Sequence[str]) -> bool:
    """Return whether a denied path may be one that the user means to grant."""
    if access == "Write":
        return True
    if any(is_in(directory, path) for directory in search):
        return False
    is_system = any(is_in(path, directory) for directory in _SYSTEM)
    return is_in(path, home_directory()) or not is_system


def _weight(one: DeniedFile) -> tuple[bool, bool, str]:
    return one.access != "Write", not is_in(one.path, home_directory()), one.path


def _short(path: str) -> str:
    home = home_directory()
    return f"~{path[len(home) :]}" if is_in(path, home) else path


def _flag(one: DeniedFile, files: FilePlan) -> str | None:
    """Return the narrowest flag that grants it."""
    if one.real is None or files.closes_by_name(one.real) is not None:
        return None
    if one.is_directory and os.path.dirname(one.path) == "/":
        return None
    if one.access == "Write":
        flag = "--write" if one.is_directory else "--write-file"
    else:
        flag = "--read" if one.is_directory else "--read-file"
    short = _short(one.path)
    is_plain = shlex.quote(short[1:]) == short[1:] and short.startswith("~/")
    return f"{flag} {short if is_plain else shlex.quote(one.path)}"
