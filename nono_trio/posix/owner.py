"""Root works in another user's directories as that user, so that no file there becomes root's.

The owner of a directory can fill it with symlinks and hard links. As the owner, the kernel refuses
what the owner could not have done. The whole path says whose directories they are: who owns one on
the way can give files of root's a place below it by renaming. Road not taken: opening each file
with checks and changing its owner afterwards, which every place that writes would have to get
right.

`as_owner` changes the whole process; it is for commands that have no other work. A live session
(`sudo -E`) has a loop and threads that must stay root's: it makes files by name inside
`as_owner_of_path`, which changes only this thread's identity towards file systems.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import pwd
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from nono_trio.posix import process_info
from nono_trio.posix.safe_open import open_to_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROOT = 0
_NO_GROUP = 65534  # the kernel's overflow group, which owns nothing
_thread = threading.local()  # `acts`: this thread has another identity towards file systems


@contextlib.contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """Act as the user whose directories lead to `path`, if we are root; raises OSError.

    `path` need not exist. The whole process changes, with every thread: use it in commands that
    have no other work.
    """
    owner = foreign_owner(path)
    if owner is None:
        yield
        return
    codecs.lookup("ascii")  # loads a module that the owner may not be allowed to read later
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(_group_of(owner))
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(_ROOT)
        os.setegid(group)
        os.setgroups(groups)


@contextlib.contextmanager
def as_owner_of_path(path: Path) -> Iterator[None]:
    """Make and open files below `path` as the user whose directories lead there, if we are root.

    `path` need not exist. Only this thread changes; the block must contain no checkpoint of a loop.
    Raises OSError if the identity can't be changed: then the caller must make no file.
    """
    owner = None if getattr(_thread, "acts", False) else foreign_owner(path)
    if owner is None:
        yield
        return
    groups = os.getgroups()
    _thread.acts = True
    try:
        process_info.set_file_identity(owner, _group_of(owner), [])
        yield
    finally:
        process_info.set_file_identity(_ROOT, os.getegid(), groups)
        _thread.acts = False


@lru_cache  # in a session the first call comes before its command
def _group_of(user: int) -> int:
    """Return the group of a user's account. A directory's own group is no proof that its owner is
    in it: it is root's if root made the directory. A user without an account gets nobody's."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return _NO_GROUP


def foreign_owner(path: Path) -> int | None:
    """Return the first ordinary user who owns a directory on the way.

    None if there is none, or we are not root. Both the written and the resolved path count.
    """
    if os.geteuid() != _ROOT:
        return None
    absolute = path.absolute()
    for way in (absolute, absolute.resolve()):
        for directory in reversed([way, *way.parents]):
            try:
                found = directory.stat(follow_symlinks=False)
            except OSError:
                break
            if found.st_uid != _ROOT and process_info.is_mapped(found.st_uid):
                return found.st_uid
    return None


def open_shared(path: Path, flags: int) -> int:
    """Open a file that all sessions of a state directory append to; make it (0600) if needed.

    A new file belongs to the directory's owner, so a run as root does not lock that user out. A
    symlink raises OSError.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return open_to_write(path, flags)
    if os.geteuid() == _ROOT:  # this call made the file, so its name can't lead elsewhere
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
