"""`audit cleanup`: which sessions go, by number, age and size; forget.py removes each.

Rules of this file: a session goes if one of the limits names it. A session that runs, and one whose
files contradict each other or the ledger (evidence of tampering), stays and is listed: each session
is verified, whole, before it goes. A directory without a log and a session.json is no session and
is left alone. Ages follow from what the log
binds; a time in the future makes a session new. Sizes are those that the disk gives back: allocated
blocks, as `du` counts them. No link is followed. Blocking.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.newest import newest_first
from nono_trio.audit.read.status import status
from nono_trio.audit.recovery.forget import SessionInUse, forget
from nono_trio.audit.stored_session import parse_time
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.session import verify
from nono_trio.errors import JSON_SCHEMA, AuditLost, NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.stored_session import StoredSession

Limit: TypeAlias = Literal["keep", "older-than", "max-total-size"]
Outcome: TypeAlias = Literal["removed", "would-remove", "gone", "running", "tampered", "failed"]

BLOCK: Final = 512  # bytes of one of `st_blocks`, on each system
# The exit code 1 of `audit verify`: a tampered session is a finding. Nothing else is worse.
_FINDINGS: Final = ("tampered", "failed")


@dataclass(frozen=True)
class Limits:
    """The newest `keep` stay, those that ended after `since`, and the newest `total_bytes`.

    None is no limit.
    """

    keep: int | None = None
    since: datetime | None = None
    total_bytes: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A session with the time of its last sign of life, and its size in allocated bytes."""

    session: StoredSession
    ended: datetime
    size: int

    @property
    def stays(self) -> Literal["running", "tampered"] | None:
        """Return why it stays whatever the limits say; None if it does not."""
        found = status(self.session)
        return found if found == "running" or found == "tampered" else None


class _IsTampered(NonoTrioError):
    """The session that was to be removed is evidence; the message is its first fault."""


class Cleaned(msgspec.Struct, kw_only=True):
    """One session that a limit names, and what became of it; `size` is in allocated bytes."""

    session_id: str
    outcome: Outcome
    limit: Limit
    ended: str
    size: int
    reason: str | None = None


class Cleanup(msgspec.Struct, kw_only=True):
    """The whole answer: the sessions that a limit names, and the number and size of the others."""

    schema: int = JSON_SCHEMA
    dry_run: bool
    sessions: list[Cleaned]
    kept: int
    kept_size: int


@dataclass
class Choice:
    """The sessions that the limits name, oldest first, and the others."""

    named: list[tuple[Candidate, Limit]] = field(default_factory=list)
    kept: list[Candidate] = field(default_factory=list)


def exit_code(outcomes: Iterator[Outcome]) -> int:
    """Return the exit code of the command: 1 if a session was left that a person must look at."""
    return int(any(one in _FINDINGS for one in outcomes))


def choose(audit_root: Path, limits: Limits) -> Choice:
    """Return what the limits name; raises LogUnreadable and OSError."""
    choice, total, is_full = Choice(), 0, False
    for place, one in enumerate(_candidates(audit_root)):
        limit: Limit | None = None
        if limits.keep is not None and place >= limits.keep:
            limit = "keep"
        elif limits.since is not None and one.ended < limits.since:
            limit = "older-than"
        elif limits.total_bytes is not None:
            is_full = is_full or total + one.size > limits.total_bytes
            limit = "max-total-size" if is_full else None
        if limit is None:
            choice.kept.append(one)
        else:
            choice.named.append((one, limit))
        if limit is None or one.stays is not None:
            total += one.size
    choice.named.reverse()
    return choice


def clean_up(audit_root: Path, choice: Choice, *, dry_run: bool) -> Iterator[Cleaned]:
    """Remove what was chosen, oldest first, and yield each session when it is gone.

    Raises AuditLost if the ledger can't be written: then nothing more is removed.
    """
    report = None if dry_run or not choice.named else ledger.readable_report(audit_root)
    for one, limit in choice.named:
        yield _removed(audit_root, one, limit, report, dry_run=dry_run)


def _removed(
    audit_root: Path, one: Candidate, limit: Limit, report: LedgerReport | None, *, dry_run: bool
) -> Cleaned:
    cleaned = Cleaned(
        session_id=one.session.session_id,
        outcome=one.stays or "would-remove",
        limit=limit,
        ended=one.ended.isoformat(timespec="seconds"),
        size=one.size,
        reason=None if one.session.fault is None else one.session.fault.text,
    )
    if dry_run or one.stays is not None:
        return cleaned
    try:
        is_gone = forget(audit_root, cleaned.session_id, partial(_require_sound, report))
        cleaned.outcome = "removed" if is_gone else "gone"
    except _IsTampered as error:
        cleaned.outcome, cleaned.reason = "tampered", error.message
    except SessionInUse as error:  # it was recovered, or another command removes it
        cleaned.outcome, cleaned.reason = "running", error.message
    except AuditLost:
        raise
    except NonoTrioError as error:
        cleaned.outcome, cleaned.reason = "failed", error.message
    return cleaned


def _require_sound(report: LedgerReport | None, directory: Path) -> None:
    """Raise _IsTampered for a session that `audit verify` calls so."""
    answer = verify(directory, ledger=report, jobs=None)
    if answer.verdict == "tampered" and answer.first_bad is not None:
        raise _IsTampered(answer.first_bad.text)


def _candidates(audit_root: Path) -> list[Candidate]:
    """Return every session with its facts, newest first."""
    known = [
        # A policy has some hundred grants; thousands of them need not be in memory.
        msgspec.structs.replace(one, policy=None, totals=None)
        for one in bound_facts.sessions(audit_root)
        if _is_session(one.directory)
    ]
    ordered = newest_first(audit_root, known, lambda one: status(one) == "running")
    return [Candidate(one, _last_sign(one), disk_size(one.directory)) for one in ordered]


def _is_session(directory: Path) -> bool:
    """Return whether a directory is a session; one that can't be looked into is counted as one."""
    for name in (store.LOG, store.SESSION):
        try:
            os.lstat(directory / name)
        except FileNotFoundError:
            continue
        except OSError:
            return True
        return True
    return False


def _last_sign(session: StoredSession) -> datetime:
    """Return when a session ended; of one that was never sealed, the last change of its log."""
    ended = session.summary.ended if session.summary is not None else None
    known = parse_time(ended) if ended is not None else None
    if known is not None:
        return known
    try:
        changed = (session.directory / store.LOG).stat(follow_symlinks=False).st_mtime
        return max(session.started, datetime.fromtimestamp(changed, UTC))
    except (OSError, ValueError, OverflowError):
        return session.started


def disk_size(directory: Path) -> int:
    """Return the allocated bytes of a directory and all below it, each file once; what can't be
    looked at counts nothing."""
    seen: set[tuple[int, int]] = set()
    total, waiting = 0, [os.fspath(directory)]
    while waiting:
        here = waiting.pop()
        try:
            total += os.lstat(here).st_blocks * BLOCK
            with os.scandir(here) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    elif found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                        total += found.st_blocks * BLOCK
                        if found.st_nlink > 1:
                            seen.add((found.st_dev, found.st_ino))
        except OSError:
            continue
    return total
