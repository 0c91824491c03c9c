"""Follow the symlinks of a path one by one, and return each of them with the final path.

Works in the file system of this process or below another root; then absolute symlinks start at that
root. The view makes every symlink on the way to a grant again.
"""

import os
import stat
from typing import NamedTuple

_MAX_LINKS = 40  # the kernel's own limit on symlinks in one path (ELOOP)
_NO_LINK = ""  # no symlink has an empty text


class Followed(NamedTuple):
    """The result of following a path; `links` are its symlinks, each by its own real path.

    If the path does not exist, `real` is where it would be.
    """

    real: str
    links: tuple[str, ...]
    exists: bool


def follow(path: str, targets: dict[str, str | None] | None = None, *, root: str = "") -> Followed:
    """Follow every symlink of an absolute path below `root`; missing parts are kept as written.

    `targets` is a cache over many paths: the text of a symlink by its path, "" for another file,
    None for a missing one.
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
        if len(links) > _MAX_LINKS:  # a circle
            return Followed(path if root else os.path.realpath(path), tuple(links), exists=False)
        if target.startswith("/"):
            real = ""
        pending += reversed(target.split("/"))
    return Followed(real or "/", tuple(links), exists)


def _target(path: str) -> str | None:
    """Return the text of a symlink, _NO_LINK for another file, None for a missing one."""
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return _NO_LINK
        return os.readlink(path)
    except OSError:
        return None
