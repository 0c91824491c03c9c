"""A file that a command makes for its user: whole or not at all, and over no other file unasked.

Rules of this file: it is written under another name in the same directory, readable by its owner
alone, synced, and then gets its name in one step. Without `replace` that step fails if the name is
taken; with it only a regular file is replaced. A symlink is never followed. Only the file is made
as the directory's owner (owner.py): its content may be readable for root alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from nono_trio.posix.disk_sync import sync_data, sync_directory
from nono_trio.posix.owner import as_owner_of_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE: Final = 0o600
# The errors of a file system without hard links.
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def require_place(path: Path, *, replace: bool) -> None:
    """Raise OSError if a file can't be made there: before the work that gives its content."""
    with as_owner_of_path(path):
        try:
            found = path.lstat()
        except FileNotFoundError:
            if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
                path.parent.stat()
                raise PermissionError(
                    errno.EACCES, "the directory can't be written to", str(path.parent)
                ) from None
            return
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is there and is no regular file", str(path))
    if not replace:
        raise FileExistsError(errno.EEXIST, "is there already", str(path))


@contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Give a file to write to, which gets its name, whole and durable, when the block ends well.

    Raises OSError; until the file has its name, the place is as it was before. Blocks.
    """
    temporary = path.parent / f".nono-trio-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with as_owner_of_path(path):
        require_place(path, replace=replace)
        descriptor = os.open(temporary, flags, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            sync_data(file.fileno())
        with as_owner_of_path(path):
            _name(temporary, path, replace=replace)
            sync_directory(path.parent)
    finally:
        with suppress(FileNotFoundError), as_owner_of_path(path):
            temporary.unlink()


def _name(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        temporary.rename(path)
        return
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_into_claimed(temporary, path)


def _rename_into_claimed(temporary: Path, path: Path) -> None:
    """Take the name with an empty file of ours, which the rename then replaces."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, _MODE))
    try:
        temporary.rename(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
