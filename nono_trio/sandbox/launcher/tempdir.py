"""The session's own temporary directory, for a cage without a private /tmp.

Rules of this file: a hostile command filled the directory, so it is removed by descriptors: no
symlink is followed, no file outside is touched, and no depth, mode or number of files makes the
removal fail or take long. Road not taken: `shutil.rmtree` recurses, so a thousand nested
directories end it with a RecursionError, and it leaves directories that it may not read.

The supervisor removes it, and the launcher too, in case the supervisor was killed.
"""

from __future__ import annotations

import os
import stat
import time

from .hostile_tree import entered

PREFIX = "nono-trio-"
# Enough for a million files. The run ends only afterwards, so the rest stays.
REMOVE_SECONDS = 10.0


def make_temporary() -> str:
    """Make a directory that only this user may enter; return its path without symlinks.

    If another cage may write TMPDIR, it can replace this directory at any time: callers must use
    the descriptor of `entered`, and compare `identity_of`. Raises OSError.
    """
    import tempfile  # takes 10 ms, which the launcher does not need

    return tempfile.mkdtemp(prefix=PREFIX, dir=os.path.realpath(tempfile.gettempdir()))


def identity_of(path: str) -> tuple[int, int]:
    """Return device and inode of a directory of `make_temporary`; raises OSError for a symlink."""
    with entered(path) as directory:
        found = os.fstat(directory)
    return found.st_dev, found.st_ino


def remove_temporary(
    path: str, seconds: float = REMOVE_SECONDS, *, parent: int | None = None
) -> bool:
    """Remove a directory of `make_temporary` with its content; return whether all of it is gone.

    Call it after every process that could write there has ended. `parent`: an open directory for a
    relative path. Never raises OSError.
    """
    try:
        with entered(path, parent) as top:
            _empty(top, time.monotonic() + seconds)
        os.rmdir(path, dir_fd=parent)
    except FileNotFoundError:
        return True
    except (OSError, TimeoutError):
        return False
    return True


def _empty(top: int, deadline: float) -> None:
    """Remove the content of `top`: subdirectories are moved up to `top` first.

    So the work needs no recursion, whatever the depth of the tree.
    """
    moved = 0
    unique = os.urandom(8).hex()
    while names := os.listdir(top):
        for name in names:
            if not _is_directory(name, top):
                _remove(name, top, deadline)
                continue
            with entered(name, top) as inner:
                for below in os.listdir(inner):
                    if not _is_directory(below, inner):
                        _remove(below, inner, deadline)
                        continue
                    moved += 1
                    with entered(below, inner):  # makes it writable: moving it changes its ".."
                        os.rename(below, f"{unique}{moved}", src_dir_fd=inner, dst_dir_fd=top)
            _remove(name, top, deadline, is_directory=True)


def _remove(name: str, directory: int, deadline: float, *, is_directory: bool = False) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError
    (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)


def _is_directory(name: str, directory: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
