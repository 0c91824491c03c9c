"""`audit export-session`: one session as one file.

Rules of this file: only a session that `audit verify` calls `verified` is written, and its log is
held meanwhile, so that nothing removes it. Blocking.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
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
        with open_regular(directory / name, follow=False) as member:
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
