"""Remove a directory that may be hostile: of any depth, with links, pipes and devices in it.

Rules of this file: no link is followed, and nothing recurses. Road not taken: `shutil.rmtree`
recurses in some versions of Python, so a thousand nested directories end it with RecursionError.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(directory: Path) -> None:
    """Remove a directory and all in it; raises OSError, also for a link in its place. Blocks."""
    top = os.open(directory, _DIRECTORY)
    try:
        _empty(top)
    finally:
        os.close(top)
    directory.rmdir()


def _empty(top: int) -> None:
    """Move the directories in a subdirectory up to `top` before it is removed."""
    moved, unique = 0, os.urandom(8).hex()
    while names := os.listdir(top):
        for name in names:
            if not _is_directory(name, top):
                os.unlink(name, dir_fd=top)
                continue
            inner = os.open(name, _DIRECTORY, dir_fd=top)
            try:
                for below in os.listdir(inner):
                    if _is_directory(below, inner):
                        moved += 1
                        os.rename(below, f"{unique}{moved}", src_dir_fd=inner, dst_dir_fd=top)
                    else:
                        os.unlink(below, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _is_directory(name: str, directory: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
