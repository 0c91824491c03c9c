"""Files that the kernel opens to start a program: links that lead to it, its interpreters.

Rules of this file: a symlink on the way is shown in the cage, as it says no more than a name; what
would have to be read beside the program is named before anything is started, with the grant that
would do; nothing is read for it but a regular file's beginning.
"""

from __future__ import annotations

import os
import shlex
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.errors import CageFailed
from nono_trio.posix.paths import is_in
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.sandbox.filesystem.plan import FilePlan

_MOST: Final = 5  # interpreters of interpreters; the kernel's own limit
_BEGINNING: Final = 4096  # bytes: the kernel reads 256 of a script; the headers of a program
_MAGIC: Final = b"\x7fELF\x02\x01"  # 64 bits, little endian: what this runs on
_HEADERS: Final = struct.Struct("<32xQ14xHH")  # e_phoff, e_phentsize, e_phnum
_SEGMENT: Final = struct.Struct("<I4xQ16xQ")  # p_type, p_offset, p_filesz
_INTERPRETER: Final = 3


def links_to_show(executable: str, files: FilePlan, home: str | None) -> list[str]:
    """The paths on the way to a program that a cage with a view has to show as links.

    `home` is a kept home, in which there may be other files than the host's. Raises CageFailed for
    an interpreter that the cage may not read.
    """
    paths = [executable, *interpreters(executable)]
    for path in paths[1:]:
        if files.covers(path, "read") is None and not _may_be_another(path, home):
            raise CageFailed(
                f"{executable} is run by {path}, which is outside what the cage may read",
                hint=f"grant it with --read {shlex.quote(os.path.dirname(os.path.realpath(path)))}",
            )
    return [path for path in paths if os.path.realpath(path) != path and _is_free(path, files)]


def interpreters(executable: str) -> Iterator[str]:
    """Files that the kernel starts for a program, in turn, as far as they exist."""
    path = executable
    for _ in range(_MOST):
        found = _interpreter(path)
        if found is None or not os.path.isabs(found) or not os.path.exists(found):
            return
        path = os.path.normpath(found)
        yield path


def _interpreter(path: str) -> str | None:
    try:
        with open_regular(Path(path)) as file:
            beginning = file.read(_BEGINNING)
    except OSError:  # it can be executed and not read
        return None
    if beginning.startswith(b"#!"):
        words = beginning[2:].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else None
    return _loader(beginning)


def _loader(beginning: bytes) -> str | None:
    """The path of an ELF program's loader."""
    if not beginning.startswith(_MAGIC) or len(beginning) < _HEADERS.size:
        return None
    at, size, count = _HEADERS.unpack_from(beginning)
    for number in range(count):
        place = at + number * size
        if place + _SEGMENT.size > len(beginning):
            return None
        kind, offset, length = _SEGMENT.unpack_from(beginning, place)
        if kind == _INTERPRETER:
            return os.fsdecode(beginning[offset : offset + length].rstrip(b"\0")) or None
    return None


def _may_be_another(path: str, home: str | None) -> bool:
    return home is not None and is_in(os.path.realpath(path), os.path.realpath(home))


def _is_free(path: str, files: FilePlan) -> bool:
    """Return whether nothing on the way to it is closed: not even a name is made there."""
    return files.protection is None or files.protection.closing(path) is None
