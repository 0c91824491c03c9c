"""The session's own temporary directory, where the cage has no private /tmp.

Rules of this file: the directory was a hostile command's to fill, so it is taken apart by
descriptors: no symlink is followed, nothing outside is touched, and no depth, mode or number of
what lies in it makes us fail or wait for long. `shutil.rmtree` is the road not taken: it recurses,
so that a command that nests a thousand directories ends it with a RecursionError, and it leaves
what it may not read.

Removed twice: by the supervisor, and by what ends the tree when the supervisor was killed.
"""

from __future__ import annotations

import os
import stat
import time

from .hostile_tree import entered

PREFIX = "nono-trio-"
# A million files go in that time. It holds back the end of the run, so what is left then stays.
REMOVE_SECONDS = 10.0


def make_temporary() -> str:
    """Make a directory that only this user may enter; its path, without symlinks. Raises OSError.

    Where TMPDIR lies in what another cage may write, that cage can put something else at this path
    at any time: whoever uses it holds on to what `entered` gives, and compares (`identity_of`).
    """
    import tempfile  # 10 ms, which the launcher, that only removes, does not wait for

    return tempfile.mkdtemp(prefix=PREFIX, dir=os.path.realpath(tempfile.gettempdir()))


def identity_of(path: str) -> tuple[int, int]:
    """Device and inode of a directory of `make_temporary`; raises OSError for a symlink."""
    with entered(path) as directory:
        found = os.fstat(directory)
    return found.st_dev, found.st_ino


def remove_temporary(
    path: str, seconds: float = REMOVE_SECONDS, *, parent: int | None = None
) -> bool:
    """Remove a directory of `make_temporary` with all that is in it; False when some is left.

    Call it after every process that could write there has ended. `parent`: the open directory that
    a relative path begins in. Never raises OSError.
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
    """Remove everything in `top`: a directory's own directories are moved up, then it is empty.

    So the work is flat, however deep the tree was.
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
                    with entered(below, inner):  # opened up: moving it changes its ".."
                        os.rename(below, f"{unique}{moved}", src_dir_fd=inner, dst_dir_fd=top)
            _remove(name, top, deadline, is_directory=True)


def _remove(name: str, directory: int, deadline: float, *, is_directory: bool = False) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError
    (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)


def _is_directory(name: str, directory: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
