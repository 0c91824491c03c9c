"""Every error that a user of nono-trio can meet: what went wrong, a hint, and the exit code.

Rules of this file: one meaning a type; the message is one sentence without a full stop that says
what was expected and what came; the hint says what to do about it. Our own bugs are assertions,
never one of these. Exit codes are the contract of the command line, as is the number that every
answer in JSON carries, an error's too.
"""

from __future__ import annotations

from typing import ClassVar, Final

JSON_SCHEMA: Final = 1  # raised when a field of an answer changes its meaning or goes


class NonoTrioError(Exception):
    """Root of all errors with a text for a person; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NonoTrioError):
    """A flag, a rule or a session name that can't be meant."""

    exit_code = 2


class LogUnreadable(NonoTrioError):
    """A session, log or ledger that is missing or can't be opened."""

    exit_code = 2


class AuditLost(NonoTrioError):
    """The log can't be written or sealed: nothing more may be allowed."""

    exit_code = 4


class AuditBusy(NonoTrioError):
    """The queue stayed full: this one event was not recorded, so its action must not happen."""


class SessionSealed(NonoTrioError):
    """An event came after the seal; it was not recorded."""


class CageFailed(NonoTrioError):
    """The cage could not be built, or the command is outside what the cage may read."""

    exit_code = 126


class CommandNotFound(NonoTrioError):
    """There is no such command."""

    exit_code = 127
