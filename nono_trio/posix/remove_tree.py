"""Remove a directory that may be hostile: of any depth, with links, pipes and devices in it.

Rules of this file: no link is followed, and nothing recurses. A mode that locks its owner out is
changed, because the owner may remove it. Road not taken: `shutil.rmtree` recurses in some versions
of Python, so a thousand nested directories end it with RecursionError.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, or what is in its place; raises OSError. Blocks."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    top = open_directory(str(path))
    try:
        _empty(top)
    finally:
        os.close(top)
    path.rmdir()


def open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory so that what is in it can be removed; raises OSError, also for a link."""
    try:
        opened = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError as error:
        try:
            return _open_healed(name, parent)
        except PermissionError:  # it is not ours to change
            raise error from None
    if stat.S_IMODE(os.fstat(opened).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
        with suppress(PermissionError):  # another user's, which may be empty
            os.fchmod(opened, stat.S_IRWXU)
    return opened


if sys.platform == "darwin":  # not tested on a Mac

    def _open_healed(name: str, parent: int | None) -> int:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent, follow_symlinks=False)
        return os.open(name, _DIRECTORY, dir_fd=parent)

else:

    def _open_healed(name: str, parent: int | None) -> int:
        looked = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{looked}", stat.S_IRWXU)
            return os.open(".", _DIRECTORY, dir_fd=looked)
        finally:
            os.close(looked)


def _empty(top: int) -> None:
    """Move the directories in a subdirectory up to `top` before it is removed."""
    moved, unique = 0, os.urandom(8).hex()
    while names := os.listdir(top):
        for name in names:
            if not _is_directory(name, top):
                os.unlink(name, dir_fd=top)
                continue
            inner = open_directory(name, top)
            try:
                for below in os.listdir(inner):
                    if _is_directory(below, inner):
                        os.close(open_directory(below, inner))  # one without `w` can't be moved
                        moved += 1
                        os.rename(below, f"{unique}{moved}", src_dir_fd=inner, dst_dir_fd=top)
                    else:
                        os.unlink(below, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _is_directory(name: str, directory: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
