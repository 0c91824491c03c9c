"""Every error that a user of nono-trio can get: a message, a hint, and the exit code.

Rules of this file: each type has one meaning. The message is one sentence without a full stop that
names the expected and the actual value; the hint says what to do. Our own bugs are assertions,
never one of these. The exit codes are part of the command line's contract, and so is the number in
every JSON answer.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

JSON_SCHEMA: Final = 1  # raised when a field of an answer changes its meaning or goes
FAILED_EXIT_CODE: Final = 3  # of a run that --fail-on fails: no error, its command has ended well


class NonoTrioError(Exception):
    """Root of all errors with a text for a person; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NonoTrioError):
    """An invalid flag, rule or session name."""

    exit_code = 2


class LogUnreadable(NonoTrioError):
    """A session, log or ledger that is missing or can't be opened."""

    exit_code = 2


def unreadable(path: object, error: OSError) -> LogUnreadable:
    """Return the error about a path (str or Path) that the system does not let us read."""
    return LogUnreadable(
        f"{path} can't be read: {error.strerror or error}", hint=path_hint(path, error)
    )


def path_hint(path: object, error: OSError, what: str = "it") -> str:
    """Return what to look at after an error about a path (str or Path): its rights, or the disk if
    that has no room."""
    import shlex  # late: for errors only

    quoted = shlex.quote(str(path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"see what room is left: df -h {quoted}"
    return f"look at {what}: ls -ld {quoted}"


class LogRewritten(LogUnreadable):
    """A log that was changed where it may only grow; the exit code is that of `tampered`."""

    exit_code = 1


def rewritten(what: str, session: object) -> LogRewritten:
    """Return the error about a log that was changed; `session` (str or Path) is what to verify."""
    import shlex  # late: for errors only

    return LogRewritten(
        f"TAMPERED: {what}",
        hint=f"keep its files as evidence; `nono-trio audit verify {shlex.quote(str(session))}`",
    )


class AuditLost(NonoTrioError):
    """The log can't be written or sealed, so nothing more may be allowed."""

    exit_code = 4


class AuditBusy(NonoTrioError):
    """The queue stayed full: this event was not recorded, so its action must not happen."""


class SessionSealed(NonoTrioError):
    """An event came after the seal, so it was not recorded."""


class CageFailed(NonoTrioError):
    """The cage can't be built, or the command is outside the paths that the cage may read."""

    exit_code = 126


class CommandNotFound(NonoTrioError):
    """There is no such command."""

    exit_code = 127
