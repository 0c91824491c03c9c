"""Reads the log of a session that crashed once, with the checks of `audit verify`.

Rules of this file: nothing is changed here. Everything that verify calls tampering is a fault here
too, because a seal on such a log would hide it. Memory is bounded as in session.json.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit import store
from nono_trio.audit.read.records import lines_backwards, size_of
from nono_trio.audit.stored_session import FirstBad, parse_time
from nono_trio.audit.verify.binding import binding_fault
from nono_trio.audit.verify.bound_files import POLICY_MISMATCH, Bound, check_session
from nono_trio.audit.verify.evidence import gather, read_bound_file
from nono_trio.audit.verify.log_check import LogCheck
from nono_trio.audit.verify.seal_check import LAST_RECORD
from nono_trio.audit.verify.session import FirstNetworkEvents
from nono_trio.audit.verify.signatures import SignatureCheck
from nono_trio.audit.write.chained_log import ChainedLog
from nono_trio.audit.write.seal import opened_metadata, signed_attestation
from nono_trio.core.log.events import MALFORMED, Network
from nono_trio.core.log.notices import POLICY_SEQUENCE, is_about_log
from nono_trio.core.log.policy_json import decode_policy
from nono_trio.errors import LogUnreadable
from nono_trio.posix.clock import rfc3339

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.verify.checkpoints import CheckpointCursor
    from nono_trio.audit.write.chained_log import AppendFile
    from nono_trio.core.log.events import NetworkEvent, Payload, SessionEnded
    from nono_trio.core.log.notices import Tally
    from nono_trio.core.log.session_json import (
        AttemptTotals,
        AuditAttestation,
        Checkpoint,
        SessionMetadata,
    )
    from nono_trio.core.log.summary_json import SealSummary
    from nono_trio.core.proof.public_keys import PublicKeys


class CrashScan:
    """One reading of an unsealed session; raises OSError and LogUnreadable if it can't be read.

    `whole` has the number of bytes in whole lines, for each file.
    """

    def __init__(self, directory: Path) -> None:
        self._last_decision_ms = 0
        self._directory = directory
        self._events = FirstNetworkEvents()
        self._bound = Bound(directory)
        self._evidence = gather(directory, upstream=False)
        self._check = LogCheck(
            self._evidence.log,
            self._evidence.log_size,
            strict=True,
            sealed=False,
            observe=self._observe,
            signatures=SignatureCheck.of(directory),
        )
        self._check.run(directory / store.CHECKPOINTS, self._evidence.checkpoints_size)
        self.whole = {
            store.LOG: self._check.good_bytes,
            store.CHECKPOINTS: self._cursor.whole_bytes if self._check.cursor else 0,
            store.FLOWS: _whole_lines(directory / store.FLOWS),
        }
        if (directory / store.PROCESSES).exists():
            self.whole[store.PROCESSES] = _whole_lines(directory / store.PROCESSES)

    def add(self, payloads: list[Payload]) -> None:
        """Count the records that a recovery adds at the end."""
        for payload in payloads:
            self._check.count(payload)
            self._observe(payload)

    def _observe(self, payload: Payload) -> None:
        self._events.observe(payload)
        if isinstance(payload, Network) and not is_about_log(payload.event):
            self._last_decision_ms = max(self._last_decision_ms, payload.event.timestamp_unix_ms)

    @property
    def count(self) -> int:
        """The number of good records."""
        return self._check.chain.count

    @property
    def tally(self) -> Tally:
        """Decisions and losses of the log, with the added records."""
        return self._check.tally

    @property
    def attempts(self) -> AttemptTotals:
        """The attempts in the log."""
        return self._check.attempts.totals

    @property
    def network_events(self) -> list[NetworkEvent]:
        """The first network events, for session.json."""
        return self._events.first

    @property
    def ended(self) -> SessionEnded | None:
        """The log's own end, if the supervisor was lost after writing it."""
        return self._check.ended

    @property
    def summary(self) -> SealSummary | None:
        """The summary that an ended log binds."""
        return self._bound.summary

    @property
    def last_checkpoint(self) -> Checkpoint | None:
        """The last whole checkpoint."""
        return self._cursor.last

    @property
    def attestation(self) -> AuditAttestation | None:
        """The attestation of a seal that was signed before the supervisor was lost."""
        policy, last = self._bound.policy, self.last_checkpoint
        return None if policy is None else signed_attestation(policy, last)

    @property
    def unrecorded_losses(self) -> int:
        """The number of lost events in the last checkpoint that no record of the log counts."""
        last = self.last_checkpoint
        return max(0, last.lost_total - self.tally.lost) if last is not None else 0

    @property
    def binds_policy(self) -> bool:
        """True if the log has the record that binds the policy."""
        return self._bound.policy is not None

    def policy_text(self, metadata: SessionMetadata) -> bytes:
        """Return the policy.json of a session without a policy record, if it fits session.json.

        Raises LogUnreadable if it is missing, invalid or does not fit.
        """
        path = self._directory / store.POLICY
        data = read_bound_file(path)
        if data is None:
            raise LogUnreadable(f"{path} is missing: what the session was allowed is not known")
        try:
            policy = decode_policy(data)
        except MALFORMED as error:
            raise LogUnreadable(f"{path} is no policy: {error}") from error
        opened = opened_metadata(policy, metadata.started, metadata.command)
        fault = check_session(opened, metadata)
        if fault is not None:
            raise LogUnreadable(f"{path} does not fit session.json: {fault.expected}, {fault.got}")
        return data

    def fault(self) -> FirstBad | None:
        """The fault that a crash can't explain; None if the session may be sealed."""
        if self._check.first_bad is not None:
            return self._check.first_bad
        missing = self._check.signatures.end_fault(self.count, None)
        if missing is not None:
            return missing
        last = self.last_checkpoint
        if last is not None and last.final and self.ended is None:
            expected = "session_ended before the final checkpoint"
            return FirstBad(failure=LAST_RECORD, expected=expected, got="none")
        fault = binding_fault(self._evidence, self._check, self._bound, self._events.first)
        metadata = self._evidence.metadata
        if fault is not None or self.count > POLICY_SEQUENCE or metadata is None:
            return fault
        return self._first_record_fault(metadata)

    def _first_record_fault(self, metadata: SessionMetadata) -> FirstBad | None:
        """Compare a log without a policy record with session.json, the only file to compare."""
        if metadata.session_id != self._directory.resolve().name:
            return FirstBad(
                failure=POLICY_MISMATCH,
                expected=self._directory.resolve().name,
                got=metadata.session_id,
            )
        started = self._check.started
        if started is None:
            return None
        said = msgspec.structs.replace(metadata, started=started.started, command=started.command)
        return check_session(said, metadata)

    def last_sign_of_life(self, started: str) -> str:
        """The latest of: the start, the last checkpoint, the last decision (RFC 3339)."""
        last = self.last_checkpoint
        times = [started, last.time if last is not None else ""]
        with contextlib.suppress(ValueError, OverflowError, OSError):  # a time past the calendar
            times.append(rfc3339(datetime.fromtimestamp(self._last_decision_ms / 1000, UTC)))
        known = [(parsed, text) for text in times if (parsed := parse_time(text))]
        return max(known)[1] if known else started

    def resume(self, file: AppendFile) -> ChainedLog:
        """Return the log at its end, ready for the next record, on its reopened file."""
        chain = self._check.chain
        tree = self._check.signatures.tree
        return ChainedLog(file, chain.count, chain.head, chain.tree, self._cursor.segment, tree)

    @property
    def keys(self) -> PublicKeys | None:
        """The keys that sign this session, by its policy."""
        return self._check.signatures.keys

    @property
    def _cursor(self) -> CheckpointCursor:
        cursor = self._check.cursor
        if cursor is None:
            raise AssertionError("a log whose checkpoints are damaged has a fault")
        return cursor


def _whole_lines(path: Path) -> int:
    """Return the number of bytes in whole lines of a file."""
    return next(lines_backwards(path, size_of(path)), (0, b""))[0]
