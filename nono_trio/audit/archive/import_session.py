"""`audit import`: another machine's session, from an archive into the state directory.

Rules of this file: only a session that is `verified` becomes visible, and only whole. It is
unpacked and judged below a hidden directory that this process holds. Then the ledger gets a line
`imported-ID` with the session's digest, and the directory its name; both under the ledger's lock.
An import that was killed between the two is finished by the next one of that archive, or by
`recover --all`. An id that the state directory knows is imported again only if it is the very
session. Blocking.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from nono_trio.audit import ledger, store
from nono_trio.audit.archive.tar_format import MANIFEST, MEMBERS
from nono_trio.audit.archive.unpack import archived_id, unpack, unpacked
from nono_trio.audit.archive.verify import told_of, verify_unpacked
from nono_trio.audit.recovery.acting_owner import as_verifying_owner
from nono_trio.audit.write import ledger_append
from nono_trio.core.log.session_json import session_digest
from nono_trio.errors import AuditLost, NonoTrioError, path_hint
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.disk_sync import sync_directory
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.verify.session import Watch
    from nono_trio.audit.verify.verdict import Verification
    from nono_trio.core.proof.public_keys import PublicKeys

COMPARED_AT_ONCE = 1024 * 1024


class Imported(NamedTuple):
    """The verdict on an archive, and what became of it: `is_new` is False if the session was here.

    A session without the verdict `verified` was not imported.
    """

    verdict: Verification
    directory: Path
    is_new: bool


def import_archive(
    path: Path, audit_root: Path, pinned: PublicKeys | None = None, watch: Watch | None = None
) -> Imported:
    """Import the session in an archive.

    Raises LogUnreadable for anything but a whole archive, NonoTrioError if the state directory has
    another session of that id, AuditLost if the state directory can't be written, and OSError.
    """
    with open_regular(path) as archive:  # before we act as the owner of the state directory
        target = audit_root / archived_id(archive, path)
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise _another(target)
        if target.exists():
            return _compared(archive, path, target, pinned, watch)
        _make_root(audit_root)
        return _added(archive, path, target, pinned, watch)


def _added(
    archive: BinaryIO,
    path: Path,
    target: Path,
    pinned: PublicKeys | None,
    watch: Watch | None,
) -> Imported:
    root = target.parent
    with as_verifying_owner(root), _hidden(root, target.name) as hidden:
        directory = unpack(archive, path, hidden, durable=True)
        verdict = verify_unpacked(directory, pinned=pinned, watch=watch, jobs=None)
        is_new = verdict.verdict == "verified" and _publish(directory, target)
    return Imported(told_of(verdict, path, directory), target, is_new)


def _publish(directory: Path, target: Path) -> bool:
    """Add the ledger's line, and give the session its name; False if another import was faster."""
    root, session_id = target.parent, target.name
    digest = session_digest(store.read_metadata(directory))
    with ledger_append.to_append(root):
        report = ledger.verify(root, session_id)
        # One that was removed before it was sealed has its digest in the line of the removal only.
        removed = report.removed.get(session_id, digest)
        known = report.digests.get(session_id, removed)
        if known != digest or session_id in report.condemned:
            raise _another(target)
        is_listed = session_id in report.imported and session_id not in report.removed
        if os.path.lexists(target):
            if is_listed:
                return False
            raise _another(target)
        if not is_listed:
            ledger_append.append_imported_locked(root, session_id, digest, rfc3339())
        directory.rename(target)
        sync_directory(root)
    return True


def _compared(
    archive: BinaryIO,
    path: Path,
    target: Path,
    pinned: PublicKeys | None,
    watch: Watch | None,
) -> Imported:
    """Compare an archive with the session that is here; raises NonoTrioError if they differ."""
    if target.name in ledger.verify(target.parent, target.name).removed:
        raise NonoTrioError(
            f"a removal of session {target.name} was not finished, so it is not imported",
            hint=f"finish it: nono-trio audit forget {target.name}",
        )
    with unpacked(archive, path) as directory:
        for name in MEMBERS:
            # A session of this machine has its line in the ledger, and not beside it.
            beside = name in store.CARRIED and not (target / name).exists()
            if name != MANIFEST and not beside and not _are_same(directory / name, target / name):
                raise _another(target)
        verdict = verify_unpacked(directory, pinned=pinned, watch=watch, jobs=None)
    return Imported(told_of(verdict, path, directory), target, is_new=False)


def _are_same(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes, or there is neither."""
    with contextlib.ExitStack() as opened:
        files = []
        for path in (one, other):
            with contextlib.suppress(FileNotFoundError):
                files.append(opened.enter_context(open_regular(path)))
        if len(files) != 2:
            return not files
        if len({os.fstat(file.fileno()).st_size for file in files}) != 1:
            return False
        while blocks := {file.read(COMPARED_AT_ONCE) for file in files}:
            if len(blocks) != 1:
                return False
            if blocks == {b""}:
                return True
    return True


def _another(target: Path) -> NonoTrioError:
    return NonoTrioError(
        f"another session {target.name} is known here, so this one is not imported",
        hint="import it into a state directory of its own: --audit-dir DIR",
    )


@contextlib.contextmanager
def _written_in(directory: Path) -> Iterator[None]:
    """Turn an error of making something in a directory into one about it: what was to be made is
    not there to look at."""
    try:
        yield
    except OSError as error:
        raise not_written(directory, error) from error


def not_written(directory: Path, error: OSError) -> AuditLost:
    """Return the error about a directory that takes no session."""
    return AuditLost(
        f"the session can't be written to {directory}: {error.strerror or error}",
        hint=path_hint(directory, error),
    )


def _make_root(audit_root: Path) -> None:
    with as_owner_of_path(audit_root):
        for parent in reversed([audit_root, *audit_root.parents]):
            if not parent.exists():
                with _written_in(parent.parent):
                    parent.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def _hidden(audit_root: Path, session_id: str) -> Iterator[Path]:
    """Make the directory in which an archive is unpacked, hold it, and remove it at the end."""
    hidden = audit_root / f"{store.IMPORTING}{session_id}.{os.urandom(8).hex()}"
    with _written_in(audit_root):
        hidden.mkdir(mode=0o700)
    try:
        held = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield hidden
        finally:
            os.close(held)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
