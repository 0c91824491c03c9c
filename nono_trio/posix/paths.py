"""Paths: the home directory, comparing paths, the identity of files.

One place can have several names: a symlink, a bind mount, another spelling on a file system that
ignores case. Compare paths as text only after every symlink was followed, and compare `identity`
too, which is the same under every name.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from nono_trio.posix.account import home_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# For a choice between two values. Code that uses names of one system only compares sys.platform in
# place, because the type checker understands that.
ON_MACOS: bool = sys.platform == "darwin"

Identity = tuple[int, int]  # device and inode


def home_directory() -> str:
    """Return the user's home: $HOME when it is absolute, else what the account says."""
    return home_of(os.environ)


def homes_root(environ: Mapping[str, str]) -> str:
    """Return the directory of kept homes: $XDG_DATA_HOME/nono-trio/homes.

    A relative XDG_DATA_HOME is ignored.
    """
    data = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):
        data = os.path.join(home_directory(), ".local", "share")
    return os.path.join(data, "nono-trio", "homes")


def is_below(path: str, directory: str) -> bool:
    """Tell whether `path` lies strictly inside `directory` (both without symlinks)."""
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def is_in(path: str, directory: str) -> bool:
    """Tell whether `path` is `directory` or lies inside it (both without symlinks)."""
    return path == directory or is_below(path, directory)


def ancestors(path: str) -> Iterator[str]:
    """Yield an absolute path, then the directories that it lies in, nearest first, / last."""
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield path


def relative(path: str, directory: str) -> str:
    """Return `path` relative to `directory`, which it lies in; empty if they are the same."""
    return path[len(directory.rstrip("/")) :].lstrip("/")


def could_be_directory(path: str) -> bool:
    """Tell whether `path` is a directory or could become one: no file is in the way."""
    nearest = next((one for one in ancestors(path) if os.path.lexists(one)), "/")
    return os.path.isdir(nearest)


def identity(path: str) -> Identity | None:
    """Return device and inode of the file at `path`, None if it can't be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def still_at(path: str, identity: tuple[int, int] | None) -> str | None:
    """Return the path without symlinks, None if its file is not the one of `identity`.

    Another file may be a symlink that a hostile command put there.
    """
    real = os.path.realpath(path)
    if identity is None:
        return real
    try:
        found = os.stat(real, follow_symlinks=False)
    except OSError:
        return None
    return real if (found.st_dev, found.st_ino) == tuple(identity) else None
