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
    from typing import Unpack

    from nono_trio.audit.verify.session import VerifyOptions


def verify_archive(path: Path, **options: Unpack[VerifyOptions]) -> Verification:
    """Judge an archive; as `verify` of verify/session.py."""
    try:
        with open_regular(path) as archive, unpacked(archive, path) as directory:
            return told_of(verify_unpacked(directory, **options), path, directory)
    except LogUnreadable as error:
        notes = [error.message, *([error.hint] if error.hint is not None else ())]
    except OSError as error:
        notes = [f"{error.filename or path} can't be read: {error.strerror or error}"]
    return Verification(verdict="unreadable", path=str(path), notes=notes)


def verify_path(path: Path, **options: Unpack[VerifyOptions]) -> Verification:
    """Judge whatever a path is: an archive, or a session or log."""
    try:
        archived = is_archive(path)
    except OSError:
        archived = False  # `verify` says why the file can't be read
    return verify_archive(path, **options) if archived else verify(path, **options)


def verify_unpacked(directory: Path, **options: Unpack[VerifyOptions]) -> Verification:
    """Judge an archive's session that is unpacked, by the ledger's line beside it."""
    return verify(directory, ledger=carried_report(directory), **options)


def told_of(answer: Verification, path: Path, directory: Path) -> Verification:
    """Return the answer with the archive's name in place of the private directory's."""
    notes = [note.replace(str(directory), str(path)) for note in answer.notes]
    return msgspec.structs.replace(answer, path=str(path), notes=notes)
