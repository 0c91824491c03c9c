"""`audit export-session`: one session as one file.

Rules of this file: only a session that `audit verify` calls `verified` is written, and its log is
held meanwhile, so that nothing removes it. The archive gets its name when it is whole and durable;
it is 0600, and takes no other file's place unless that is asked for. Blocking.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from nono_trio.audit import store
from nono_trio.audit.archive.ledger_evidence import evidence_files
from nono_trio.audit.archive.tar_format import (
    COPIED_AT_ONCE,
    END,
    MANIFEST,
    MEMBERS,
    encode_manifest,
    header,
    is_own_id,
    padding,
    too_large,
)
from nono_trio.audit.verify.session import verify
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.posix.disk_sync import sync_directory
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.verify.session import Watch
    from nono_trio.audit.verify.verdict import Verification


@contextlib.contextmanager
def held_for_reading(directory: Path) -> Iterator[None]:
    """Keep a session from being removed; raises BlockingIOError if another process writes or
    removes it, and OSError."""
    descriptor = os.open(
        directory / store.LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def judge(directory: Path, watch: Watch | None = None) -> Verification:
    """Return the verdict on a session that is to be written; blocks, as `verify` does."""
    return verify(directory, jobs=None, watch=watch)


def write_archive(directory: Path, file: BinaryIO) -> None:
    """Write the archive of a verified session; raises LogUnreadable, UsageError and OSError."""
    session_id = directory.name
    if not is_own_id(session_id):
        raise UsageError(
            f"expected a session with an id of nono-trio's, got {session_id!a}",
            hint="an archive has 16 lower-case hex digits as the id of its session",
        )
    made = {MANIFEST: encode_manifest(session_id)} | evidence_files(directory)
    for name in MEMBERS:
        if name in made:
            _add(file, session_id, name, BytesIO(made[name]), len(made[name]))
            continue
        if name in store.CARRIED or not os.path.lexists(directory / name):
            continue
        with open_regular(directory / name) as member:
            _add(file, session_id, name, member, os.fstat(member.fileno()).st_size)
    file.write(END)


def _add(archive: BinaryIO, session_id: str, name: str, file: BinaryIO, size: int) -> None:
    if size > MEMBERS[name]:
        raise too_large(name, size)
    archive.write(header(f"{session_id}/{name}", size))
    left = size
    while left:
        data = file.read(min(left, COPIED_AT_ONCE))
        if not data:
            raise LogUnreadable(f"{name} was cut to {size - left} bytes while it was read")
        archive.write(data)
        left -= len(data)
    archive.write(bytes(padding(size)))


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Write a file that appears under its name when the block ends well, whole and durable.

    Raises UsageError if there is a file of that name and not `force`, and OSError.
    """
    require_free(path, force=force)
    temporary = path.with_name(f".{path.name[:200]}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.fdopen(os.open(temporary, flags, 0o600), "wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path, force=force)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def _publish(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.rename(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without hard links
        require_free(path, force=False)
        temporary.rename(path)


def require_free(path: Path, *, force: bool) -> None:
    """Raise UsageError if a file can't have a name."""
    if path.is_dir():
        raise UsageError(
            f"--output: expected a file, got the directory {path}",
            hint=f"--output {shlex.quote(str(path / 'session.tar'))}",
        )
    if not force and os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> UsageError:
    return UsageError(f"--output: {path} exists", hint="--force replaces it")
