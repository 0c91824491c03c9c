"""`audit forget` and `audit cleanup`: remove a session on purpose, so that its absence raises no
alarm.

Rules of this file: the ledger's line comes first. A crash after it leaves a session that exists and
can be forgotten again. Then the directory is renamed, and then removed. Line and rename happen
under the ledger's lock, so that of two removals at once the second finds nothing to do. A session
that runs or is being recovered is refused, and so is one that may run for all we can see. Root
removes in a user's state directory what that user can remove: its whole path says whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.acting_owner import as_verifying_owner
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.session_files import lock, open_to_lock
from nono_trio.core.log.ledger_record import IMPORTED_PREFIX, REMOVED_PREFIX, sound_record
from nono_trio.core.log.session_json import session_digest
from nono_trio.errors import LogUnreadable, NonoTrioError, path_hint
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.disk_sync import sync_directory
from nono_trio.posix.remove_tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNKNOWN_DIGEST = "0" * 64  # of a session that was never sealed and has no session.json
# What opening nothing, a link, a directory, a pipe, a socket or a device says: none is a log.
_NO_LOG: Final = (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ENODEV)


class SessionInUse(NonoTrioError):
    """A supervisor, a recovery or another removal holds the session's log."""


def forget(audit_root: Path, session_id: str, before: Callable[[Path], None] | None = None) -> bool:
    """Record in the ledger that a session is removed, then remove its directory. Blocking.

    `before` is called with the directory while no other process can write or remove it; it may
    raise a NonoTrioError, and then nothing is removed.

    Returns False if there was no directory, or another removal was faster; then only a missing line
    of the ledger is added. Raises LogUnreadable for a session that neither directory nor ledger
    knows, SessionInUse for a running one, AuditLost, and NonoTrioError for a directory that can't
    be removed.
    """
    directory = audit_root / session_id
    hidden = directory.with_name(store.REMOVING + session_id)
    if not os.path.lexists(directory):
        _require_known(ledger.verify(audit_root, session_id), session_id)
    with _held(directory):
        if before is not None and os.path.lexists(directory):
            before(directory)
        if os.path.lexists(hidden):  # left by an earlier removal
            _remove(hidden)
        with ledger_append.to_append(audit_root):
            is_there = os.path.lexists(directory)
            _say_removed(audit_root, session_id, is_there=is_there)
            if is_there:
                _rename(directory, hidden)
        if is_there:
            _remove(hidden)
            sync_directory(audit_root)
    return is_there


def _rename(directory: Path, hidden: Path) -> None:
    """Hide the directory before it is removed: half of a session would look like a tampered one."""
    try:
        directory.rename(hidden)
        sync_directory(directory.parent)
    except OSError as error:
        raise not_removed(directory, error) from error


def _remove(hidden: Path) -> None:
    """Remove a directory, or what is in its place; raises NonoTrioError.

    Links in it are removed, and never followed.
    """
    try:
        remove_tree(hidden)
    except FileNotFoundError:  # a `recover --all` removed the rest
        return
    except OSError as error:
        raise not_removed(hidden, error) from error


def not_removed(directory: Path, error: OSError) -> NonoTrioError:
    """Return the error about a directory that the system does not let us remove."""
    import shlex  # late: for errors only

    named = error.filename
    where = named if isinstance(named, str) and os.path.isabs(named) else str(directory)
    return NonoTrioError(
        f"{where} can't be removed: {error.strerror or error}",
        hint=f"look at it: ls -la {shlex.quote(str(directory))}",
    )


def _say_removed(audit_root: Path, session_id: str, *, is_there: bool) -> None:
    """Add the ledger's line if it is missing, for a caller that holds the ledger's lock."""
    digest, is_removed = _last_words(audit_root, session_id)
    if is_removed:
        return
    if not is_there:
        _require_known(ledger.verify(audit_root, session_id), session_id)
    digest = digest or _digest(audit_root / session_id)
    ledger_append.append_removed_locked(audit_root, session_id, digest, rfc3339())


def _last_words(audit_root: Path, session_id: str) -> tuple[str | None, bool]:
    """Return the digest in the session's first good line of the ledger, and whether its last one
    says that it is removed.

    Only the lines that name it are hashed: a cleanup asks a thousand times.
    """
    digest, is_removed, named = None, False, session_id.encode()
    for _, _, line in ledger.numbered_lines(audit_root / ledger.LEDGER):
        record = sound_record(line) if named in line else None
        if record is None:
            continue
        if record.session_id in (session_id, IMPORTED_PREFIX + session_id):
            digest = digest or record.session_digest
        if record.session_id == REMOVED_PREFIX + session_id:
            is_removed = True
        elif record.session_id == IMPORTED_PREFIX + session_id:  # again, after it was removed
            is_removed = False
    return digest, is_removed


def _require_known(report: ledger.LedgerReport, session_id: str) -> None:
    if not report.has_line_for(session_id) and session_id not in report.removed:
        raise LogUnreadable(f"expected a session, got {session_id!r}, which is none")


def _digest(directory: Path) -> str:
    try:
        return session_digest(store.read_metadata(directory))
    except LogUnreadable:
        return UNKNOWN_DIGEST


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Act as the state directory's owner and hold the session's lock; nothing is held of a missing
    session, nor of one that another removal takes away meanwhile.

    Raises SessionInUse, LogUnreadable for something that is no directory, and NonoTrioError for
    another user's directory and for a log that can't be looked at.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_verifying_owner(directory.parent))
        with contextlib.suppress(FileNotFoundError):
            _require_ours(directory)
            held = hold_log(directory)
            if held is not None:
                stack.callback(os.close, held)
        yield


def _require_ours(directory: Path) -> None:
    """Refuse what we could hide but not remove."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise LogUnreadable(f"{directory} is no directory, so no session is removed")
    if os.geteuid() not in (0, found.st_uid):
        import shlex  # late: for errors only

        raise NonoTrioError(
            f"session {directory.name} belongs to the user {found.st_uid}, so it is not removed",
            hint=f"look at it: ls -ld {shlex.quote(str(directory))}",
        )


def hold_log(directory: Path) -> int | None:
    """Return the descriptor that holds a session's lock; None if there is no log to lock.

    Raises SessionInUse, and NonoTrioError for a log that can't be opened.
    """
    try:
        descriptor = open_to_lock(directory / store.LOG)
    except OSError as error:
        if error.errno not in _NO_LOG:
            raise _unknown(directory, error) from error
        summary = store.read_summary(directory)
        if summary is not None and not store.is_sealed(summary) and store.has_supervisor(summary):
            raise _in_use(directory) from error
        return None
    try:
        lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        raise _in_use(directory) from None
    return descriptor


def _unknown(directory: Path, error: OSError) -> NonoTrioError:
    """Return the error about a session whose log may be another process's."""
    log = directory / store.LOG
    hint = path_hint(log, error)
    if isinstance(error, PermissionError):
        import shlex  # late: for errors only

        hint = f"chmod u+rwX {shlex.quote(str(directory))}"
        if os.access(directory, os.X_OK, effective_ids=True):
            hint = f"chmod u+rw {shlex.quote(str(log))}"
    return NonoTrioError(
        f"{log} can't be opened, so session {directory.name} may be running:"
        f" {error.strerror or error}",
        hint=hint,
    )


def _in_use(directory: Path) -> SessionInUse:
    summary = store.read_summary(directory)
    if summary is not None and not store.is_sealed(summary):
        return SessionInUse(
            f"session {directory.name} is running", hint=f"nono-trio stop {directory.name}"
        )
    return SessionInUse(
        f"another command works on session {directory.name}",
        hint=f"when it has ended: nono-trio audit forget {directory.name}",
    )
