"""Reading, following, verifying, proving and writing audit logs, for programs.

A session is named as the command line names it (an id, the beginning of one, a name, `latest`, a
path), or by a `Path`. `audit_dir` is the state directory, as `--audit-dir` has it; None is the
user's, or NONO_TRIO_STATE_DIR. Every error is a `NonoTrioError` with `message` and `hint`, but
`ProofFailed`. Texts of a log are what a hostile program chose: they may have control characters.

All but `follow` and `record` needs no event loop, and blocks: in a trio program call it in a thread
(`trio.to_thread.run_sync`). What a function yields is read when it is asked for, in memory that
does not grow with the log.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path  # noqa: TC003  (for msgspec)
from typing import TYPE_CHECKING, get_args

import msgspec

from nono_trio.api.arguments import (
    directory_of,
    keys_in,
    path_of,
    require_count,
    require_directory,
    require_one_of,
    require_type,
    required_keys,
    root_at,
    with_zone,
)
from nono_trio.audit import store
from nono_trio.audit.read.records import LogRecord
from nono_trio.audit.read.records import records as read_records
from nono_trio.audit.read.status import Status, status
from nono_trio.audit.search.search import Match
from nono_trio.audit.search.search import search as search_sessions
from nono_trio.audit.search.searched_sessions import SearchReport
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.proofs import CheckedRecord, ProofFailed, check_record, prove_record
from nono_trio.audit.verify.verdict import Verification
from nono_trio.core.log.events import (
    Decision,
    Network,
    NetworkEvent,
    Payload,
    SandboxRuntime,
    SessionEnded,
    SessionStarted,
)
from nono_trio.core.log.notices import is_about_log
from nono_trio.errors import LogUnreadable, UsageError, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from typing import Literal

    from nono_trio.api.following import Followed
    from nono_trio.api.writing import SessionLog
    from nono_trio.audit.stored_session import StoredSession

__all__ = [
    "CheckedRecord",
    "Followed",
    "LogRecord",
    "LoggedDecision",
    "Match",
    "Network",
    "NetworkEvent",
    "Payload",
    "ProofFailed",
    "SandboxRuntime",
    "SearchReport",
    "Session",
    "SessionEnded",
    "SessionLog",
    "SessionStarted",
    "Verification",
    "check_proof",
    "decisions",
    "find_session",
    "follow",
    "prove",
    "record",
    "records",
    "search",
    "sessions",
    "verify",
    "verify_all",
]


class Session(msgspec.Struct, kw_only=True, frozen=True):
    """A session of the store, by what its log binds; None for what no record tells.

    `status` is running, crashed, sealed or tampered. It is cheap and no proof: `verify` proves.
    `started` and `ended` are RFC 3339, `command` is redacted.
    """

    session_id: str
    directory: Path
    status: Status
    name: str | None
    started: str | None
    ended: str | None
    command: tuple[str, ...] | None
    exit_code: int | None


class LoggedDecision(msgspec.Struct, frozen=True):
    """A network decision and its place in the log."""

    sequence: int
    event: NetworkEvent


def sessions(audit_dir: str | Path | None = None) -> Iterator[Session]:
    """Yield every session, newest first.

    Raises LogUnreadable if the directory can't be read; without a directory nothing is yielded.
    """
    for stored in bound_facts.sessions(root_at(audit_dir)):
        yield _session(stored)


def find_session(session: str | Path, *, audit_dir: str | Path | None = None) -> Session:
    """Return one session.

    Raises LogUnreadable if it is not found, UsageError if several ids begin with the text.
    """
    return _session(bound_facts.look(directory_of(session, audit_dir)))


def records(session: str | Path, *, audit_dir: str | Path | None = None) -> Iterator[LogRecord]:
    """Yield the records of a session or of a log file in order, up to the end that it has now.

    They are not verified, and lines that hold no record are left out: `verify` tells of them.
    Raises LogUnreadable and UsageError.
    """
    found = path_of(session, audit_dir)
    yield from read_records(found / store.LOG if found.is_dir() else found)


def decisions(
    session: str | Path, *, audit_dir: str | Path | None = None
) -> Iterator[LoggedDecision]:
    """Yield the network decisions of a session in order; otherwise as `records`.

    Records about the log itself are left out: those that bind its files, and counts of lost ones.
    Raises LogUnreadable and UsageError.
    """
    for one in records(session, audit_dir=audit_dir):
        if isinstance(one.event, Network) and not is_about_log(one.event.event):
            yield LoggedDecision(one.sequence, one.event.event)


def follow(
    session: str | Path,
    *,
    audit_dir: str | Path | None = None,
    new_only: bool = False,
) -> Followed:
    """Return an async iterator over the records of a session, and those still to come.

    `new_only` leaves out those that are in the log when it is called. It ends when the session has
    ended, and its `end` then says how: `ended`, or `crashed` if the writer is gone without a seal.
    Each record must go on from the one before it. Raises LogUnreadable and UsageError here; the
    iterator raises LogRewritten for a log that was changed or replaced, and LogUnreadable.

    If cancelled, no record is lost: the next step goes on where this one was. It must be iterated
    inside trio, by one task at a time.
    """
    from nono_trio.api.following import Followed  # late: it needs trio

    return Followed(path_of(session, audit_dir), new_only=new_only)


def verify(
    session: str | Path,
    *,
    audit_dir: str | Path | None = None,
    quick: bool = False,
    public_keys: bytes | None = None,
    processes: int | None = 1,
) -> Verification:
    """Return the verdict about a session, as `audit verify --json` has it.

    The session may also be an archive (`audit export-session`), or a URL of either.

    Only the verdict `verified` is a proof (`consistent` and `undamaged` are of other checks); its
    `first_bad` is the first fault. `public_keys` is what `nono-trio keys export` prints: then only
    a session that is signed with them is verified. `quick` compares checksums and proves nothing.
    `processes` check the parts of a long log, None for as many as pay off; not in a program that
    runs a loop.

    Raises nothing for faults of the session: what can't be read is `unreadable`. Raises UsageError
    for arguments that can't be meant, and for a text that means several sessions.
    """
    from nono_trio.audit.archive.verify import verify_path
    from nono_trio.audit.remote import is_url
    from nono_trio.audit.verify.many import unreadable_answer, verify_one

    require_count("processes", processes)
    pinned = keys_in(public_keys)
    judge = partial(verify_path, jobs=processes)
    if isinstance(session, str) and is_url(session):
        return verify_one(session, quick=quick, pinned=pinned, judge=judge)
    try:
        found = path_of(session, audit_dir)
    except LogUnreadable as error:
        if not isinstance(session, str) or not store.is_session_id(session):
            return unreadable_answer(str(session), error)
        found = root_at(audit_dir) / session  # the ledger may know it
    return verify_one(found, quick=quick, pinned=pinned, judge=judge)


def verify_all(
    audit_dir: str | Path | None = None,
    executor: Executor | None = None,
    *,
    quick: bool = False,
    public_keys: bytes | None = None,
) -> Iterator[Verification]:
    """Yield the verdicts about all sessions, as they come, then about those that are gone.

    `audit_dir` may be a URL of an object store. With an executor of `concurrent.futures`
    (processes, Dask, Ray) they are verified there; its own
    failures are raised as it raises them. Closing the iterator cancels what has not begun. Raises
    LogUnreadable if the directory can't be listed, UsageError for invalid keys or a URL of none.
    """
    from nono_trio.audit.remote import as_path, is_url, require_url
    from nono_trio.audit.verify.many import verify_root

    require_directory(audit_dir)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise UsageError(f"executor: expected one of concurrent.futures, got {executor!a}")
    root: Path | str
    if isinstance(audit_dir, str) and is_url(audit_dir):
        path = as_path(audit_dir)
        if path is None:
            require_url(audit_dir, audit_dir)
        root = f"{audit_dir.rstrip('/')}/audit" if path is None else root_at(path)
    else:
        root = root_at(audit_dir)
    yield from verify_root(root, executor, quick=quick, pinned=keys_in(public_keys))


def prove(session: str | Path, sequence: int, *, audit_dir: str | Path | None = None) -> bytes:
    """Return a proof (a tlog-proof file of C2SP) that a record is in a signed session.

    Raises UsageError if no signed checkpoint covers the record, ProofFailed if the log is not the
    one that was signed, LogUnreadable. Takes 32 bytes of memory for each record.
    """
    require_type("sequence", sequence, int)
    directory = directory_of(session, audit_dir)
    try:
        return prove_record(directory, sequence).encode()
    except OSError as error:
        raise unreadable(directory, error) from error


def check_proof(proof: bytes, public_keys: bytes) -> CheckedRecord:
    """Check a proof with nothing but the keys; return the record that it shows.

    `public_keys` is what `nono-trio keys export` prints. The result has `session_id`, `sequence`,
    `size` of the signed log and `event_json`. Raises ProofFailed if the proof does not hold,
    LogUnreadable if it is no proof file, UsageError for invalid keys.
    """
    require_type("proof", proof, bytes)
    return check_record(proof, required_keys(public_keys).note)


def search(
    audit_dir: str | Path | None = None,
    *,
    host: str | None = None,
    path: str | None = None,
    program: str | None = None,
    decision: Decision | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    session: str | Path | None = None,
    newest: int | None = None,
    report: SearchReport | None = None,
) -> Iterator[Match]:
    """Yield the records of all sessions that fit every pattern; the newest session is first.

    `host` is HOST[:PORT]; in the patterns `*` is any text and `?` one character. `newest` is how
    many of the newest records. Times have a zone. `report` gets what was left out. Without one,
    LogUnreadable is raised at the end if a session could not be read, as the record may be in it.
    Raises UsageError for an invalid pattern.
    """
    from nono_trio.audit.search.patterns import PathGlob, ProgramGlob, TextGlob, parse_host_glob
    from nono_trio.audit.search.query import SearchQuery

    for name, pattern in (("host", host), ("path", path), ("program", program)):
        require_type(name, pattern, str, None)
    if decision is not None:
        require_one_of("decision", decision, get_args(Decision))
    require_count("newest", newest)
    require_type("report", report, SearchReport, None)
    query = SearchQuery(
        host=None if host is None else parse_host_glob(host, "host"),
        path=None if path is None else PathGlob(TextGlob(path)),
        program=None if program is None else ProgramGlob(TextGlob(program)),
        decision=decision,
        since=with_zone("since", since),
        until=with_zone("until", until),
    )
    only = None if session is None else [directory_of(session, audit_dir)]
    seen = SearchReport() if report is None else report
    yield from search_sessions(root_at(audit_dir), query, seen, sessions=only, newest=newest)
    if report is None and seen.unreadable.count:
        count = seen.unreadable.count
        raise LogUnreadable(
            f"{count} session{'s' if count > 1 else ''} can't be read:"
            f" {', '.join(seen.unreadable.named)}",
            hint="`nono-trio audit verify` says what each of them has",
        )


def record(
    command: Sequence[str] | None = None,
    *,
    name: str | None = None,
    audit_dir: str | Path | None = None,
    mode: Literal["strict", "best-effort"] = "strict",
    sync: Literal["always", "interval", "never"] = "interval",
    sign_key: str | None = None,
) -> AbstractAsyncContextManager[SessionLog]:
    """Open a session of your own; `async with` it, inside trio. Its log has your decisions.

    `command` is what the session says it runs (None: this program's arguments), and is redacted.
    `mode`, `sync` and `sign_key` are as `--audit-mode`, `--audit-sync` and `--audit-sign-key`; with
    a key the whole process dumps no core from then on.

    The log is sealed when the block is left: by its end (exit code 0), by an exception (1), or
    cancelled (130). Sealing is shielded from cancellation and takes some milliseconds. A disk or a
    signer that hangs takes some 10 s for each step, and the ledger's signature 60 s at most. If the
    log can't be written any more, the body is cancelled.

    Raises UsageError outside trio or for an invalid name, AuditLost if the log can't be made,
    written or sealed; otherwise what the body raised, in no group of its own. Several may be open
    in one process.
    """
    from nono_trio.api.writing import SessionRequest, open_log  # late: it needs trio

    return open_log(SessionRequest(command, name, audit_dir, mode, sync, sign_key))


def _session(stored: StoredSession) -> Session:
    summary = stored.summary
    return Session(
        session_id=stored.session_id,
        directory=stored.directory,
        status=status(stored),
        name=stored.name,
        started=summary.started if summary else None,
        ended=summary.ended if summary else None,
        command=tuple(summary.command) if summary else None,
        exit_code=summary.exit_code if summary else None,
    )


def __getattr__(name: str) -> object:
    # late: both need trio
    if name == "Followed":
        from nono_trio.api import following

        return following.Followed
    if name == "SessionLog":
        from nono_trio.api import writing

        return writing.SessionLog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
