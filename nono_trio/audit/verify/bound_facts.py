"""The bound facts of a session, for `list`, `ps`, `inspect` and `show`, at a small price.

Rules of this file: the facts follow from the log, policy.json, summary.json and the ledger.
session.json is computed anew from them and compared; if it differs the session is `tampered`. Only
the log's first two and last two records are read, so nothing here is proof (that is `audit
verify`). Facts that nothing binds yet (counters and flows of a session that is not sealed, a policy
without its record) are left out.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UnsetType

from nono_trio.audit import ledger, store
from nono_trio.audit.read.records import lines, lines_backwards, size_of
from nono_trio.audit.stored_session import FirstBad, StoredSession
from nono_trio.audit.verify.bound_files import (
    POLICY_RECORD,
    SESSION_MISMATCH,
    SUMMARY_MISMATCH,
    Bound,
    check_bound_summary,
    check_files,
    check_policy,
    check_session,
    differs,
)
from nono_trio.audit.verify.chain import BadRecord, Chain
from nono_trio.audit.verify.log_check import AFTER_END, FIRST_RECORD
from nono_trio.audit.verify.seal_check import LAST_RECORD, SEALED_IN_LEDGER, check_ledger
from nono_trio.audit.write.chained_log import LogPosition
from nono_trio.audit.write.seal import claimed_attestation, opened_metadata, sealed_metadata
from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED, Network, SessionEnded, SessionStarted
from nono_trio.core.log.notices import POLICY_SEQUENCE, POLICY_TARGET, bound_digest
from nono_trio.core.log.policy_json import SupervisorProcess
from nono_trio.core.log.session_json import SessionMetadata, SessionSummary
from nono_trio.core.log.shown_text import counted
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.read.summary import Story
    from nono_trio.core.log.events import Payload

# The class of a fault of reading, which contradicts nothing.
UNREADABLE: Final = "unreadable"


class _Link(msgspec.Struct):
    """The place of a record by its own fields: its sequence, and the chain hash before it."""

    sequence: int
    prev_chain: str | None


_link_decoder = late_decoder(_Link)


def look(
    directory: Path, report: LedgerReport | None = None, *, files: bool = False
) -> StoredSession:
    """Return the bound facts of one session; raises nothing for its faults.

    `report` is the report on the ledger beside it, if there is one already. With `files`,
    flows.ndjson and the other files beside a sealed log are hashed as well. A faulty session is
    read twice: it may have been sealed or recovered meanwhile. One that was removed on purpose
    meanwhile is unreadable.
    """
    found = _Look(directory, report, files=files).run()
    if found.fault is None and (found.sealed or found.alive):
        return found
    found = _Look(directory, None if found.fault is not None else report, files=files).run()
    if found.fault is None:
        return found
    try:
        ledger.require_not_removed(directory)
    except LogUnreadable as gone:
        fault = FirstBad(failure=UNREADABLE, expected="a readable file", got=gone.message)
        return msgspec.structs.replace(found, fault=fault)
    return found


def compared(found: StoredSession, story: Story) -> StoredSession:
    """Return `found`, with a fault if the whole log does not have the counts of its summary."""
    totals = found.totals
    if found.fault is not None or totals is None:
        return found
    told = f"{counted(story.events, 'record')}, {story.allowed} allowed, {story.denied} denied"
    facts = totals.facts
    bound = f"{counted(totals.event_count, 'record')}, {facts.allowed_total} allowed"
    fault = differs(SUMMARY_MISMATCH, f"{bound}, {facts.denied_total} denied", told)
    if fault is None and not isinstance(facts.attempts, UnsetType):
        fault = differs(SUMMARY_MISMATCH, f"{facts.attempts}", f"{story.attempts.totals}")
    return msgspec.structs.replace(found, fault=fault)


def sessions(audit_root: Path, report: LedgerReport | None = None) -> Iterator[StoredSession]:
    """Yield every session, newest first by session.json; each is read when it is asked for.

    `report` is the one on the ledger, if there is one already.
    """
    report = report or ledger.readable_report(audit_root)
    for known in store.sessions(audit_root):
        yield look(known.directory, report)


class _Look:
    """One reading of one session: the results so far."""

    def __init__(self, directory: Path, report: LedgerReport | None, *, files: bool) -> None:
        self.directory = directory
        self.name = store.place_name(directory)
        self.report = report
        self.files = files
        self.bound = Bound(directory)
        self.first: list[Payload] = []
        self.fault: FirstBad | None = None
        self.metadata: SessionMetadata | None = None
        self.known: SessionMetadata | None = None

    def run(self) -> StoredSession:
        """Read the session; an error of reading is a fault."""
        try:
            self._look()
        except LogUnreadable as error:
            self._say(UNREADABLE, "a readable file", error.message)
        except OSError as error:
            self._say(UNREADABLE, "a readable file", f"{error.filename}: {error.strerror}")
        except BadRecord as bad:
            self._say(bad.failure, bad.expected, bad.got)
        sealed = self.metadata is not None and store.is_sealed(self.metadata)
        return StoredSession(
            directory=self.directory,
            summary=_summary(self.known),
            fault=self.fault,
            sealed=sealed,
            alive=not sealed and self._is_alive(),
            policy=self.bound.policy,
            totals=self.bound.summary if sealed else None,
            supervisor=self._supervisor(),
            imported=self._imported(),
        )

    def _say(self, failure: str, expected: str, got: str) -> None:
        self.fault = self.fault or FirstBad(failure=failure, expected=expected, got=got)

    def _look(self) -> None:
        self.metadata = self._read_session()
        sealed = self.metadata is not None and store.is_sealed(self.metadata)
        self._read_beginning(strict=False)
        if self._is_upstreams():
            self._look_at_upstreams()
            return
        self._read_beginning(strict=True)
        second = self.first[POLICY_SEQUENCE] if len(self.first) > POLICY_SEQUENCE else None
        if second is not None and self.fault is None:
            self.fault = check_policy(self.bound, second)
        if self.fault is not None:
            self.bound.policy = None
        self.known = self._opened()
        if self.fault is None and sealed:
            self._look_at_end(second)
        elif self.fault is None:
            self._look_at_unsealed()

    def _read_session(self) -> SessionMetadata | None:
        if not (self.directory / store.SESSION).exists():
            return None
        return store.read_metadata(self.directory)

    def _read_beginning(self, *, strict: bool) -> None:
        """Read the first two records, if they exist and are good."""
        log = self.directory / store.LOG
        chain = Chain(strict=strict)
        self.first.clear()
        try:
            for line in islice(lines(log, size_of(log)), POLICY_SEQUENCE + 1):
                payload = chain.feed(line)
                if payload is not None:
                    self.first.append(payload)
        except BadRecord as bad:
            if bad.parsed:
                raise
        if self.first and not isinstance(self.first[0], SessionStarted):
            self._say(FIRST_RECORD, "session_started", "another record")

    def _is_upstreams(self) -> bool:
        """Return True for a session of upstream's; as evidence.py, by the log and our own files."""
        if any((self.directory / name).exists() for name in (store.POLICY, store.SUMMARY)):
            return False
        if len(self.first) > POLICY_SEQUENCE:
            return bound_digest(self.first[POLICY_SEQUENCE], POLICY_TARGET) is None
        return self.metadata is not None and store.is_sealed(self.metadata)

    def _look_at_upstreams(self) -> None:
        """Take session.json as far as upstream's digest covers it, without our own facts."""
        if self.metadata is None:
            return
        self.known = msgspec.structs.replace(self.metadata, nono_trio=msgspec.UNSET)
        report = self._ledger()
        if report.has_line_for(self.name):
            _, self.fault = check_ledger(report, self.metadata)

    def _opened(self) -> SessionMetadata | None:
        """Compute the open session.json from log and policy; without a policy only the command."""
        started = self.first[0] if self.first else None
        if not isinstance(started, SessionStarted):
            return None
        if self.bound.policy is not None:
            return opened_metadata(self.bound.policy, started.started, started.command)
        return SessionMetadata(
            session_id=self.directory.name,
            started=started.started,
            command=started.command,
            tracked_paths=[],
            merkle_roots=[],
        )

    def _look_at_end(self, second: Payload | None) -> None:
        """Check the last two records, summary.json, session.json and the ledger's line."""
        metadata, opened = self.metadata, self.known
        if metadata is None or opened is None or self.bound.policy is None:
            self._say(POLICY_RECORD, f"a record for {POLICY_TARGET}", "none")
            return
        chain, before_last, ended = self._read_end()
        self.fault = check_bound_summary(self.bound, before_last) or differs(
            SESSION_MISMATCH, f"event_count {chain.count}", f"event_count {self._event_count}"
        )
        summary = self.bound.summary
        if self.fault is not None or summary is None:
            self.bound.summary = None
            return
        integrity = metadata.audit_integrity
        position = LogPosition(
            event_count=chain.count,
            offset=0,
            chain_head=chain.head.hex() if chain.head else None,
            merkle_root=integrity.merkle_root if integrity else "",
            segment_xxh3="",
        )
        signed = claimed_attestation(self.bound.policy, metadata)
        expected = sealed_metadata(
            opened, ended, position, metadata.network_events, summary, signed
        )
        repeated = [second.event] if isinstance(second, Network) else []
        self.fault = (
            check_session(expected, metadata)
            or differs(SESSION_MISMATCH, repeated, metadata.network_events[:1])
            or check_ledger(self._ledger(), metadata)[1]
            or (check_files(self.directory, summary) if self.files else None)
        )
        self.known = expected

    @property
    def _event_count(self) -> int | None:
        return self.bound.summary.event_count if self.bound.summary is not None else None

    def _read_end(self) -> tuple[Chain, Payload | None, SessionEnded]:
        """Read the log's last two records and return the chain after them; raises BadRecord."""
        log = self.directory / store.LOG
        size = size_of(log)
        found = [*islice(lines_backwards(log, size), 2)]
        if len(found) < 2 or found[0][0] != size:
            raise BadRecord(AFTER_END, "a log that ends in session_ended", "another end")
        (_, last), (_, before) = found
        chain = Chain(strict=True)
        try:
            link = _link_decoder.decode(before)
            chain.count, chain.head = link.sequence, bytes.fromhex(link.prev_chain or "")
        except (*MALFORMED, ValueError) as error:
            raise BadRecord(LAST_RECORD, "a record", "none") from error
        before_last, ended = chain.feed(before), chain.feed(last)
        if not isinstance(ended, SessionEnded):
            raise BadRecord(LAST_RECORD, "session_ended", "another record")
        return chain, before_last, ended

    def _look_at_unsealed(self) -> None:
        """Compare session.json with the policy, and the summary with a log that has ended; if the
        ledger has the session, its log must have ended."""
        if self.metadata is not None and self.known is not None and self.bound.policy is not None:
            self.fault = check_session(self.known, self.metadata)
        if self.fault is not None or self._is_alive():
            return
        has_ended = True
        try:
            _, before_last, _ = self._read_end()
            self.fault = check_bound_summary(self.bound, before_last)
        except BadRecord:
            has_ended = False
        could_be_sealed = has_ended and self.metadata is not None
        if not could_be_sealed and self._ledger().has_line_for(self.name):
            self._say(SEALED_IN_LEDGER, "the session that the ledger knows", "an unsealed one")

    def _ledger(self) -> LedgerReport:
        """Return the report on the ledger beside it; an old report may lack a later line."""
        if self.report is None or not self.report.has_line_for(self.name):
            self.report = ledger.verify(self.directory.resolve().parent, self.name)
        return self.report

    def _imported(self) -> str | None:
        return None if self.report is None else self.report.imported.get(self.name)

    def _supervisor(self) -> SupervisorProcess | None:
        """Return the process that the policy names, or session.json's while no policy is bound."""
        if self.bound.policy is not None:
            return self.bound.policy.supervisor
        if self.fault is not None or self.metadata is None:
            return None
        facts = self.metadata.facts
        pid, ticks, boot = facts.supervisor_pid, facts.supervisor_start_ticks, facts.boot_id
        if isinstance(pid, int) and isinstance(ticks, int) and isinstance(boot, str):
            return SupervisorProcess(pid=pid, start_ticks=ticks, boot_id=boot)
        return None

    def _is_alive(self) -> bool:
        process = self._supervisor()
        return process is not None and store.is_supervised(self.directory, process)


def _summary(metadata: SessionMetadata | None) -> SessionSummary | None:
    """Return the part of a session.json that is shown."""
    if metadata is None:
        return None
    names = SessionSummary.__struct_fields__
    return SessionSummary(**{name: getattr(metadata, name) for name in names})
