"""Work in a directory tree that a hostile command filled: nothing in it leads us anywhere else.

Rules of this file: a path is gone through one name at a time, by descriptors and never through a
symlink; a mode that forbids us is put right, as the files are ours; what is looked at is bounded in
number and time; no recursion, as a command may nest as deep as it likes. Names are untrusted text:
whoever prints one cleans it. Standard library only: the launcher uses it too.
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
    from collections.abc import Iterator, Sequence

READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What is set aside carries this and four random bytes, so that it never meets another name.
SET_ASIDE = ".before-grant-"


def open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory of ours, also one whose mode forbids it; never through a symlink.

    Raises OSError: NotADirectoryError for anything else that has the name.
    """
    try:
        opened = os.open(name, READ_DIRECTORY, dir_fd=parent)
    except PermissionError:
        return _open_healed(name, parent)
    if stat.S_IMODE(os.fstat(opened).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
        os.close(opened)  # for root every mode is open, for the command's next run it is not
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
    """`open_directory` for the body."""
    opened = open_directory(name, parent)
    try:
        yield opened
    finally:
        os.close(opened)


def make_directories(top: int, names: Sequence[str], *, clear: bool = False) -> int:
    """Open the directory that `names` lead to from `top`, making what is missing (0700).

    What is no directory is set aside with `clear`, and else raises NotADirectoryError.
    """
    current = os.dup(top)
    try:
        for name in names:
            _require_name(name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=current)
            try:
                below = open_directory(name, current)
            except OSError as error:
                if not clear or error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                set_aside(name, current)
                os.mkdir(name, 0o700, dir_fd=current)
                below = open_directory(name, current)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def find_directory(top: int, names: Sequence[str], *, heal: bool = True) -> int:
    """Open the directory that `names` lead to from `top`; raises OSError where there is none.

    `heal`: put modes right that forbid it.
    """
    current = os.dup(top)
    try:
        for name in names:
            _require_name(name)
            if heal:
                below = open_directory(name, current)
            else:
                below = os.open(name, READ_DIRECTORY, dir_fd=current)
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
    """Give what is in the way another name, and return that."""
    other = f"{name[:200]}{SET_ASIDE}{os.urandom(4).hex()}"
    os.rename(name, other, src_dir_fd=parent, dst_dir_fd=parent)
    return other


def names_in(directory: int, most: int) -> list[str]:
    """The names in a directory, at most so many: a list of all of them may not fit in memory."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, most)]


def mode_of(name: str, parent: int) -> int | None:
    """The mode of what has the name, not of what it leads to; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


class TreeSurvey:
    """What a tree holds: `files` counts all that is no directory, `first` are the uppermost paths
    of them; `whole` is False where the bounds cut it short."""

    def __init__(self) -> None:
        self.files = 0
        self.size = 0  # bytes on disk
        self.first: list[str] = []
        self.whole = True


def survey(
    top: int, *, without: frozenset[str], most: int, seconds: float, named: int = 0
) -> TreeSurvey:
    """Count what lies below the directory `top`, upper levels first; changes nothing.

    `without` are paths below it that don't count, nor what is in them. Never raises OSError for
    what is inside: it may change while it is looked at. Ends after `most` entries or `seconds`.
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
    except FileNotFoundError:  # gone since its parent was read
        return
    except OSError:  # closed to its owner as well
        found.whole = False


@contextlib.contextmanager
def walked(top: int, path: str) -> Iterator[int]:
    """Open the directory at a relative path ("" for `top`) for the body; raises OSError."""
    opened = find_directory(top, path.split("/") if path else (), heal=False)
    try:
        yield opened
    finally:
        os.close(opened)
