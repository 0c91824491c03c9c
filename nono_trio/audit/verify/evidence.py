"""Collects the files that `audit verify` judges, and decides whose rules apply.

They are read in an order that a live writer can't confuse: session.json first, then the sizes of
the checkpoints and of the log.

Rules of this file: the log decides whose rules apply (its second record binds a policy), or files
that only we write. Deleting some of them never makes the rules weaker. A symlink in the place of a
session's directory is not followed: the proof must be about the id that was given.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit.ledger import LEDGER
from nono_trio.audit.read.records import lines, parse_record, size_of
from nono_trio.audit.store import (
    CHECKPOINTS,
    FLOWS,
    LOG,
    POLICY,
    PROCESSES,
    SESSION,
    SUMMARY,
    is_alive,
    is_sealed,
    read_metadata,
)
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.ledger_record import decode_ledger_record
from nono_trio.core.log.notices import POLICY_SEQUENCE, POLICY_TARGET, bound_digest
from nono_trio.core.log.session_json import (
    NO_FACTS,
    SessionMetadata,
    decode_checkpoint,
)
from nono_trio.errors import LogUnreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nono_trio.audit.verify.verdict import Rules
    from nono_trio.core.log.session_json import NonoTrioFacts

# The files of a session; each of them leads to the session's directory.
_MEMBERS = (LOG, SESSION, CHECKPOINTS, FLOWS, PROCESSES, POLICY, SUMMARY)
# The longest policy.json or summary.json that is read: a cage of 10,000 grants is 2 MB.
MAX_BOUND_FILE = 64 * 1024 * 1024


class NoSession(LogUnreadable):
    """A directory holds no session: it is missing, replaced, or without a log."""


class Evidence(msgspec.Struct, frozen=True):
    """The files of one session, or a single log (`directory` is None)."""

    log: Path
    directory: Path | None
    metadata: SessionMetadata | None
    alive: bool
    checkpoints_size: int
    log_size: int
    rules: Rules
    binds_policy: bool

    @property
    def facts(self) -> NonoTrioFacts:
        """Our own facts of session.json."""
        return self.metadata.facts if self.metadata is not None else NO_FACTS

    @property
    def ours(self) -> bool:
        """True if our own rules apply, byte for byte."""
        return self.rules == "nono-trio" and self.directory is not None

    @property
    def sealed(self) -> bool:
        """True if session.json says that it is sealed; in upstream's, if it has an integrity."""
        return self.metadata is not None and is_sealed(self.metadata)

    def moved_on_from(self, before: Evidence) -> bool:
        """Return True if the session was written to between two readings."""
        return self != before

    def beside(self, name: str) -> Path:
        """The path of another file of the session."""
        return (self.directory or self.log.parent) / name


def gather(target: Path, *, upstream: bool) -> Evidence:
    """Collect a session directory, the session of one of its files, or a single log.

    Raises NoSession or LogUnreadable if it can't be judged. Without `upstream`, that includes a log
    that binds no policy: upstream's weaker rules apply only on request.
    """
    directory = session_directory(target)
    if directory is not None and directory.is_symlink():
        raise NoSession(
            f"{directory} is a symlink to {os.readlink(directory)}, not a session",
            hint="give the directory itself",
        )
    if not target.exists():
        raise NoSession(f"{target} does not exist")
    log = directory / LOG if directory is not None else target
    metadata, alive = _read_session(directory)
    beside = 0 if directory is None else _size_of(directory / CHECKPOINTS)
    if not log.is_file():
        raise NoSession(f"{log} is {'no file' if log.exists() else 'missing'}")
    records, binds_policy = _first_records(log)
    rules = _rules(directory, metadata, records, binds_policy=binds_policy, upstream=upstream)
    return Evidence(
        log=log,
        directory=directory,
        metadata=metadata,
        alive=alive,
        checkpoints_size=beside,
        log_size=size_of(log),
        rules=rules,
        binds_policy=binds_policy,
    )


def _size_of(path: Path) -> int:
    return 0 if is_no_file(path) else size_of(path)


def is_ledger(target: Path) -> bool:
    """Return True if a file is a ledger, by its name or its first line.

    Raises OSError, and LogUnreadable for a checkpoints file without its session, which proves
    nothing.
    """
    if not target.is_file() or session_directory(target) is not None:
        return False
    first = next(lines(target, size_of(target)), b"")
    if target.name == LEDGER or _decodes(decode_ledger_record, first):
        return True
    if target.name in _MEMBERS[1:] or _decodes(decode_checkpoint, first):
        raise LogUnreadable(
            f"{target} is a part of a session, and no log", hint="give the session's directory"
        )
    return False


def _decodes(decode: Callable[[bytes], object], line: bytes) -> bool:
    try:
        decode(line)
    except MALFORMED:
        return False
    return True


def session_directory(target: Path) -> Path | None:
    """Return the session of a directory, or of a file in it; None for a single log."""
    if target.is_dir() or target.is_symlink():
        return target if target.is_dir() else None
    parent = target.parent
    others = (name for name in (SESSION, CHECKPOINTS, POLICY) if name != target.name)
    in_session = target.name in _MEMBERS and any((parent / name).exists() for name in others)
    return parent if in_session else None


def read_bound_file(path: Path) -> bytes | None:
    """Return the bytes of policy.json or summary.json.

    None if it is missing, far too large, or no file: a directory, a pipe, a symlink that leads
    nowhere. No crash leaves that. Raises OSError if it can't be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(size) if size <= MAX_BOUND_FILE else None
    except OSError:
        if not path.exists() or is_no_file(path):
            return None
        raise


def is_no_file(path: Path) -> bool:
    """Return whether there is something else than a file: a directory, a pipe, a symlink that leads
    nowhere. Raises OSError."""
    return os.path.lexists(path) and not path.is_file()


def _read_session(directory: Path | None) -> tuple[SessionMetadata | None, bool]:
    """Return session.json if it exists, and whether its supervisor still runs.

    A dead session may have been sealed between the two looks, so session.json is read again.
    """
    if directory is None or not (directory / SESSION).exists():
        return None, False
    metadata = _metadata(directory)
    if is_alive(directory, metadata):
        return metadata, True
    return _metadata(directory), False


def _metadata(directory: Path) -> SessionMetadata:
    """Return session.json; raises NoSession if it is invalid, or no file: it is only ever replaced
    whole."""
    try:
        return read_metadata(directory)
    except LogUnreadable as error:
        if isinstance(error.__cause__, OSError) and not is_no_file(directory / SESSION):
            raise
        raise NoSession(error.message, hint=error.hint) from error


def _first_records(log: Path) -> tuple[int, bool]:
    """Return the number of whole records among the first two, and whether the second binds a
    policy."""
    count = 0
    for line in lines(log, size_of(log)):
        record = parse_record(line)
        if record is None:
            break
        if count == POLICY_SEQUENCE:
            return count + 1, bound_digest(record.event, POLICY_TARGET) is not None
        count += 1
    return count, False


def _rules(
    directory: Path | None,
    metadata: SessionMetadata | None,
    records: int,
    *,
    binds_policy: bool,
    upstream: bool,
) -> Rules:
    if directory is None:  # a single log is never `verified`, so upstream's rules may apply
        return "nono-trio" if binds_policy else "nono"
    if binds_policy or any((directory / name).exists() for name in (POLICY, SUMMARY)):
        return "nono-trio"
    begun = records > POLICY_SEQUENCE or (metadata is not None and is_sealed(metadata))
    if not begun and (metadata is None or metadata.is_ours):
        return "nono-trio"  # killed before its second record: its policy is not known
    if upstream:
        return "nono"
    raise LogUnreadable(
        f"the log in {directory} binds no policy: it is one of upstream nono, or of an earlier"
        " nono-trio",
        hint="--upstream judges it by upstream nono's weaker rules",
    )
