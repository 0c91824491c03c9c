"""Unpacks an archive into a directory of ours, for its verification or its import.

Rules of this file: every file is made exclusively, 0600, under one of the names that the format
has; nothing that exists is opened. Blocks of zeros become holes, so that a sparse archive fills no
disk. An archive is read once, from its beginning to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nono_trio.audit.archive.tar_format import (
    BLOCK,
    COPIED_AT_ONCE,
    is_tar,
    members,
    refused,
    session_id_of,
)
from nono_trio.errors import LogUnreadable
from nono_trio.posix.disk_sync import sync_data, sync_directory
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.audit.archive.tar_format import Member

PREFIX = "nono-trio-archive-"
_ZEROS = bytes(COPIED_AT_ONCE)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_archive(path: Path) -> bool:
    """Return whether a path is a file that begins as a tar does; raises OSError."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        return is_tar(file.read(BLOCK))


def archived_id(archive: BinaryIO, path: Path) -> str:
    """Return the session's id by the first header of an archive; raises LogUnreadable, OSError."""
    session_id = session_id_of(archive.read(BLOCK))
    archive.seek(0)
    if not session_id:
        raise refused(path, 0, "the header of an archive", "other bytes")
    return session_id


@contextlib.contextmanager
def unpacked(archive: BinaryIO, path: Path) -> Iterator[Path]:
    """Unpack an archive below a private directory, which is removed at the end.

    The directory is in TMPDIR. Raises LogUnreadable and OSError.
    """
    import tempfile  # late: few sessions are archives, and every verification imports this module

    with tempfile.TemporaryDirectory(prefix=PREFIX) as parent:
        try:
            directory = unpack(archive, path, Path(parent))
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise LogUnreadable(
                f"there is no room to unpack {path} in {tempfile.gettempdir()}",
                hint="the variable TMPDIR names another directory",
            ) from error
        yield directory


def unpack(archive: BinaryIO, path: Path, parent: Path, *, durable: bool = False) -> Path:
    """Unpack an archive into a new directory below `parent`, named by the session's id.

    `archive` is at its beginning; `path` is its name in errors. After an error a part of it
    remains. Raises LogUnreadable for anything but a whole archive, and OSError.
    """
    directory = parent / archived_id(archive, path)
    directory.mkdir(mode=0o700)
    for member in members(archive, path, directory.name):
        _copy(archive, directory, member, path, durable=durable)
    if durable:
        sync_directory(directory)
    return directory


def _copy(archive: BinaryIO, directory: Path, member: Member, path: Path, *, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    target = directory / member.name
    with os.fdopen(os.open(target, flags, 0o600), "wb", buffering=0) as file:
        left = member.size
        while left:
            data = archive.read(min(left, COPIED_AT_ONCE))
            if not data:
                place = member.offset + member.size - left
                raise refused(path, place, f"{left} more bytes", "the end")
            left -= len(data)
            if data == _ZEROS:
                file.seek(len(data), os.SEEK_CUR)
            else:
                _write_all(file.fileno(), data)
        file.truncate(member.size)
        if durable:
            sync_data(file.fileno())


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
