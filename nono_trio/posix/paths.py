"""Where things are: on which system, the home, whether one path lies inside another.

A place has more names than one: a symlink, a bind mount, another spelling where case does not
count. Paths are compared by their text only after every symlink was followed, and beside it by
`identity`, which is the same under every name.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.posix.account import home_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# For choices between two values; where a name exists on one system only, sys.platform is compared
# in place, as the type checker knows that by itself.
ON_MACOS: bool = sys.platform == "darwin"

_MAX_LINKS = 40  # the kernel's own limit on symlinks in one path (ELOOP)

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


class Followed(NamedTuple):
    """A path behind its symlinks; `links` are those on the way, each by its own real path."""

    real: str
    links: tuple[str, ...]


def follow(path: str, targets: dict[str, str | None] | None = None) -> Followed:
    """Follow every symlink of an absolute path; what is not there is taken as it is written.

    `targets` keeps what was found for the next of many paths: each is looked at once.
    """
    targets = {} if targets is None else targets
    pending = [part for part in reversed(path.split("/")) if part]
    real, links = "", []
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            real = os.path.dirname(real).rstrip("/")
            continue
        here = f"{real}/{part}"
        if here not in targets:
            targets[here] = _target(here)
        target = targets[here]
        if target is None:
            real = here
            continue
        links.append(here)
        if len(links) > _MAX_LINKS:  # a circle: nothing is behind it
            return Followed(os.path.realpath(path), tuple(links))
        if target.startswith("/"):
            real = ""
        pending += reversed(target.split("/"))
    return Followed(real or "/", tuple(links))


def _target(path: str) -> str | None:
    """Return the text of a symlink, None for anything else."""
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return None
        return os.readlink(path)
    except OSError:
        return None


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
