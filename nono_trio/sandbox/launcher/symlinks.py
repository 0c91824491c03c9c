"""Follow the symlinks of a path one by one, by text: which there are, and what is behind them all.

In the file system of this process, or below another root, whose absolute symlinks begin there: the
view's mounts need both ends of every symlink on the way to a grant.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

_MAX_LINKS = 40  # the kernel's own limit on symlinks in one path (ELOOP)
_NO_LINK = ""  # which no symlink has as its text


class Followed(NamedTuple):
    """A path behind its symlinks; `links` are those on the way, each by its own real path.

    Of what does not exist, `real` is the place where it would be.
    """

    real: str
    links: tuple[str, ...]
    exists: bool


def follow(path: str, targets: dict[str, str | None] | None = None, *, root: str = "") -> Followed:
    """Follow every symlink of an absolute path below `root`; what is not there is taken as it is
    written.

    `targets` keeps what was found for the next of many paths, each looked at once: the text of a
    symlink by its path, "" for anything else, None for nothing.
    """
    targets = {} if targets is None else targets
    pending = [part for part in reversed(path.split("/")) if part]
    real, links, exists = "", [], True
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            real = os.path.dirname(real).rstrip("/")
            continue
        here = f"{real}/{part}"
        if here not in targets:
            targets[here] = _target(root + here)
        target = targets[here]
        if not target:
            exists = exists and target is not None
            real = here
            continue
        links.append(here)
        if len(links) > _MAX_LINKS:  # a circle: nothing is behind it
            return Followed(path if root else os.path.realpath(path), tuple(links), exists=False)
        if target.startswith("/"):
            real = ""
        pending += reversed(target.split("/"))
    return Followed(real or "/", tuple(links), exists)


def _target(path: str) -> str | None:
    """Return the text of a symlink, _NO_LINK for anything else, None where nothing is seen."""
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return _NO_LINK
        return os.readlink(path)
    except OSError:
        return None
