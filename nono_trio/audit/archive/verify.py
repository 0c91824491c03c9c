"""`audit verify ARCHIVE`: the verdict on a file, without importing it.

Rules of this file: the session is unpacked into a private directory, judged there as any other, and
removed again. The ledger's line is the one in the archive, and no key in it is trusted.
A file that is no whole archive is `unreadable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit.archive.unpack import is_archive, unpacked
from nono_trio.audit.verify.carried_ledger import carried_report
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.verdict import Verification
from nono_trio.errors import LogUnreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.verify.session import Watch
    from nono_trio.core.proof.public_keys import PublicKeys


def verify_archive(
    path: Path,
    *,
    quick: bool = False,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    watch: Watch | None = None,
    jobs: int | None = 1,
) -> Verification:
    """Judge an archive; as `verify` of verify/session.py, whose arguments these are."""
    try:
        with open_regular(path) as archive, unpacked(archive, path) as directory:
            answer = verify_unpacked(
                directory, quick=quick, upstream=upstream, pinned=pinned, watch=watch, jobs=jobs
            )
            return told_of(answer, path, directory)
    except LogUnreadable as error:
        notes = [error.message, *([error.hint] if error.hint is not None else ())]
    except OSError as error:
        notes = [f"{error.filename or path} can't be read: {error.strerror or error}"]
    return Verification(verdict="unreadable", path=str(path), notes=notes)


def verify_path(
    path: Path,
    *,
    quick: bool = False,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    watch: Watch | None = None,
    jobs: int | None = 1,
) -> Verification:
    """Judge whatever a path is: an archive, or a session or log."""
    try:
        judge = verify_archive if is_archive(path) else verify
    except OSError:
        judge = verify  # it says why the file can't be read
    return judge(path, quick=quick, upstream=upstream, pinned=pinned, watch=watch, jobs=jobs)


def verify_unpacked(
    directory: Path,
    *,
    quick: bool = False,
    upstream: bool = False,
    pinned: PublicKeys | None = None,
    watch: Watch | None = None,
    jobs: int | None = 1,
) -> Verification:
    """Judge an archive's session that is unpacked, by the ledger's line beside it."""
    return verify(
        directory,
        quick=quick,
        upstream=upstream,
        pinned=pinned,
        ledger=carried_report(directory),
        watch=watch,
        jobs=jobs,
    )


def told_of(answer: Verification, path: Path, directory: Path) -> Verification:
    """Return the answer with the archive's name in place of the private directory's."""
    notes = [note.replace(str(directory), str(path)) for note in answer.notes]
    return msgspec.structs.replace(answer, path=str(path), notes=notes)
