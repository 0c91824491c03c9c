"""Where things are: on which system, the home, whether one path lies inside another.

A place has more names than one: a symlink, a bind mount, another spelling where case does not
count. Paths are compared by their text only after every symlink was followed, and beside it by
`identity`, which is the same under every name.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from nono_trio.posix.account import home_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# For choices between two values; where a name exists on one system only, sys.platform is compared
# in place, as the type checker knows that by itself.
ON_MACOS: bool = sys.platform == "darwin"

Identity = tuple[int, int]  # device and inode


def home_directory() -> str:
    """Return the user's home: $HOME when it is absolute, else what the account says."""
    return home_of(os.environ)


def homes_root(environ: Mapping[str, str]) -> str:
    """Where kept homes are: $XDG_DATA_HOME/nono-trio/homes; a relative XDG_DATA_HOME is ignored."""
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
    """Return what leads from `directory` to `path`, which is in it; empty if they are the same."""
    return path[len(directory.rstrip("/")) :].lstrip("/")


def could_be_directory(path: str) -> bool:
    """Tell whether there is a directory at `path`, or one could be made: no file is in the way."""
    nearest = next((one for one in ancestors(path) if os.path.lexists(one)), "/")
    return os.path.isdir(nearest)


def identity(path: str) -> Identity | None:
    """Return device and inode of what is at `path`, None if nothing is there or can be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def still_at(path: str, identity: tuple[int, int] | None) -> str | None:
    """The path without symlinks; None where something else is there than `identity`, a device and
    inode: what was put in its place may be a symlink to anywhere."""
    real = os.path.realpath(path)
    if identity is None:
        return real
    try:
        found = os.stat(real, follow_symlinks=False)
    except OSError:
        return None
    return real if (found.st_dev, found.st_ino) == tuple(identity) else None
