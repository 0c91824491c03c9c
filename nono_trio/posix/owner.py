"""Root at work in another user's directories: as that user, so that nothing becomes root's.

A directory that belongs to somebody else is theirs to fill with symlinks and hard links. The road
not taken: opening each file past them and giving it back afterwards, which has to be right in every
place that writes; as the owner, the kernel refuses what the owner could not have done.

`as_owner` changes the whole process, for commands that do nothing else. A live session (`sudo -E`)
has a loop and threads that must stay root's: whatever of it makes a file by name does that in
`as_owner_of_path`, which changes how this one thread is seen by file systems and nothing else.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

from nono_trio.posix import process_info
from nono_trio.posix.safe_open import require_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROOT = 0
_thread = threading.local()  # `acts`: this thread is somebody else to file systems already


@contextlib.contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Act as the owner of `directory` if we are root and it is not root's; raises OSError.

    The whole process changes, every thread of it: for commands that do nothing else meanwhile.
    """
    owner = directory.stat(follow_symlinks=False)
    if os.geteuid() != _ROOT or owner.st_uid == _ROOT:
        yield
        return
    codecs.lookup("ascii")  # a module that the owner may not be allowed to read when it is needed
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(_ROOT)
        os.setegid(group)
        os.setgroups(groups)


@contextlib.contextmanager
def as_owner_of_path(path: Path) -> Iterator[None]:
    """Make and open files below `path` as the user whose directories lead there, if we are root.

    `path` need not be there. This thread only, and no checkpoint of a loop may be inside. Raises
    OSError where that is impossible: then nothing may be made.
    """
    is_root = os.geteuid() == _ROOT and not getattr(_thread, "acts", False)
    owner = _foreign_owner(path) if is_root else None
    if owner is None:
        yield
        return
    groups = os.getgroups()
    _thread.acts = True
    try:
        process_info.set_file_identity(owner.st_uid, owner.st_gid, [])
        yield
    finally:
        process_info.set_file_identity(_ROOT, os.getegid(), groups)
        _thread.acts = False


def _foreign_owner(path: Path) -> os.stat_result | None:
    """Whose the path is: of the first directory on the way, as written and as resolved, that is not
    root's and not open to everybody (a /tmp is nobody's home)."""
    absolute = path.absolute()
    for way in (absolute, absolute.resolve()):
        for directory in reversed([way, *way.parents]):
            try:
                found = directory.stat(follow_symlinks=False)
            except OSError:
                break
            shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH
            if found.st_uid != _ROOT and not shared and process_info.is_mapped(found.st_uid):
                return found
    return None


def open_shared(path: Path, flags: int) -> int:
    """Open a file of `path`'s directory, 0600; made for the directory's owner if it is not there.

    For what every session of a state directory appends to: one run as root must not shut the
    directory's user out of it. Never through a symlink; raises OSError.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _opened_once_named(path, flags)
    if os.geteuid() == _ROOT:  # a file that was made here and now: no name can lead elsewhere
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def _opened_once_named(path: Path, flags: int) -> int:
    """Open a file that is there; root refuses one with a second name, which may be anybody's."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        require_regular(descriptor, path)
        _require_one_name(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_one_name(descriptor: int, path: Path) -> None:
    if os.geteuid() == _ROOT and os.fstat(descriptor).st_nlink > 1:
        raise OSError(errno.EMLINK, "it has another name as well", str(path))
