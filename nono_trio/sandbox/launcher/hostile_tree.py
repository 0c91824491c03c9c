"""Work in a directory tree that a hostile command filled, without ever leaving the tree.

Rules of this file: a path is opened one name at a time, by descriptors and never through a symlink;
a mode that locks us out is changed, because the files are ours; the number of entries and the time
are bounded; no recursion, because a command may nest without limit. Names are untrusted text: the
caller cleans them before printing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# The suffix of a renamed obstacle; four random bytes follow, so the name is new.
SET_ASIDE = ".before-grant-"


def open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory of ours, after changing its mode if needed; never through a symlink.

    Raises OSError; NotADirectoryError for a file that is no directory.
    """
    try:
        opened = os.open(name, READ_DIRECTORY, dir_fd=parent)
    except PermissionError:
        return _open_healed(name, parent)
    if stat.S_IMODE(os.fstat(opened).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
        os.close(opened)  # root may enter, but the command of the next run may not
        return _open_healed(name, parent)
    return opened


if sys.platform == "darwin":  # not tested on a Mac

    def _open_healed(name: str, parent: int | None) -> int:
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return os.open(name, READ_DIRECTORY, dir_fd=parent)

else:

    def _open_healed(name: str, parent: int | None) -> int:
        looked = os.open(name, os.O_PATH | READ_DIRECTORY, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{looked}", 0o700)
            return os.open(".", READ_DIRECTORY, dir_fd=looked)
        finally:
            os.close(looked)


@contextlib.contextmanager
def entered(name: str, parent: int | None = None) -> Iterator[int]:
    """Open a directory as `open_directory` does, and close it after the body."""
    opened = open_directory(name, parent)
    try:
        yield opened
    finally:
        os.close(opened)


def make_directories(top: int, names: Sequence[str], *, clear: bool = False) -> int:
    """Open the directory at `names` below `top`; make missing directories (0700).

    A file in the way is renamed with `clear`; otherwise it raises NotADirectoryError.
    """

    def make(name: str, above: int) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        try:
            return open_directory(name, above)
        except OSError as error:
            if not clear or error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        set_aside(name, above)
        os.mkdir(name, 0o700, dir_fd=above)
        return open_directory(name, above)

    return _walk(top, names, make)


def find_directory(top: int, names: Sequence[str], *, heal: bool = True) -> int:
    """Open the directory at `names` below `top`; raises OSError if it is missing.

    `heal`: change modes that lock us out.
    """

    def find(name: str, above: int) -> int:
        return open_directory(name, above) if heal else os.open(name, READ_DIRECTORY, dir_fd=above)

    return _walk(top, names, find)


def _walk(top: int, names: Sequence[str], step: Callable[[str, int], int]) -> int:
    """Go from `top` down `names`; `step` opens a name in an open directory. Returns the last one's
    descriptor, and leaves no other one open."""
    current = os.dup(top)
    try:
        for name in names:
            _require_name(name)
            below = step(name, current)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def _require_name(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "expected a plain file name", name)


def set_aside(name: str, parent: int) -> str:
    """Rename the file in the way, and return its new name."""
    other = f"{name[:200]}{SET_ASIDE}{os.urandom(4).hex()}"
    os.rename(name, other, src_dir_fd=parent, dst_dir_fd=parent)
    return other


def names_in(directory: int, most: int) -> list[str]:
    """Return at most `most` names of a directory: a list of all names may not fit in memory."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, most)]


def mode_of(name: str, parent: int) -> int | None:
    """Return the mode of a file without following a symlink; None if it is missing."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


class TreeSurvey:
    """The content of a tree: `files` counts the non-directories, `first` has their uppermost paths.

    `whole` is False if a bound ended the survey early.
    """

    def __init__(self) -> None:
        self.files = 0
        self.size = 0  # bytes on disk
        self.first: list[str] = []
        self.whole = True


def survey(
    top: int, *, without: frozenset[str], most: int, seconds: float, named: int = 0
) -> TreeSurvey:
    """Count the files below the directory `top`, upper levels first, without changes to the tree.

    `without`: paths below it that don't count, with their content. The tree may change during the
    survey; OSErrors inside it are not raised. Ends after `most` entries or `seconds`.
    """
    found = TreeSurvey()
    deadline = time.monotonic() + seconds
    seen = 0
    level = [""]
    while level:
        below: list[str] = []
        for directory in level:
            for name, status in _statuses(top, directory, most, found):
                seen += 1
                if seen > most or time.monotonic() > deadline:
                    found.whole = False
                    return found
                path = f"{directory}/{name}" if directory else name
                if path in without:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    below.append(path)
                    continue
                found.files += 1
                found.size += status.st_blocks * 512
                if len(found.first) < named:
                    found.first.append(path)
        level = below
    return found


def _statuses(
    top: int, directory: str, most: int, found: TreeSurvey
) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with walked(top, directory) as opened:
            for name in sorted(names_in(opened, most + 1)):
                with contextlib.suppress(FileNotFoundError):
                    yield name, os.stat(name, dir_fd=opened, follow_symlinks=False)
    except FileNotFoundError:  # removed since its parent was read
        return
    except OSError:  # its mode locks out the owner too
        found.whole = False


@contextlib.contextmanager
def walked(top: int, path: str) -> Iterator[int]:
    """Open the directory at a relative path ("" for `top`), and close it after the body.

    Raises OSError."""
    opened = find_directory(top, path.split("/") if path else (), heal=False)
    try:
        yield opened
    finally:
        os.close(opened)
