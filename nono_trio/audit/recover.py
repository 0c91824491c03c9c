"""`audit recover`: seal a session whose supervisor was lost, without covering anything up.

Rules of this file:
- Only what `audit verify` calls `crashed` is touched: the log is read by verify's own pass first,
  and a log with a fault in it, or with a live writer, is left as it is.
- Nothing is thrown away: a torn tail is copied to `<file>.torn` and synced before it is cut.
- Nothing is made up: how the child ended is not known, so `session_ended` has LOST_EXIT_CODE, and
  its time is the last sign of life. A record before it says that, and how much, was cut.
- Each step leaves a session that is still `crashed` and can be recovered again, until session.json
  says "recovered" as the very last one; a second recovery finds what the first one did.

Pure of the loop, blocking; whoever calls it waits for a few syncs and one reading of the log.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.files import LOST_TARGET, append_checkpoint, lock, rfc3339, unix_ms
from nono_trio.audit.log import AppendFile, ChainedLog
from nono_trio.audit.log_check import LogCheck
from nono_trio.audit.read import lines, lines_backwards, size_of
from nono_trio.audit.seal_check import SESSION_MISMATCH, differs
from nono_trio.audit.session_record import sealed_metadata
from nono_trio.audit.verdict import SCHEMA, FirstBad
from nono_trio.audit.verify import ID_MISMATCH
from nono_trio.core.events import (
    LOST_EXIT_CODE,
    Network,
    NetworkEvent,
    SessionEnded,
    SessionStarted,
    encode_payload,
)
from nono_trio.core.metadata import (
    MAX_NETWORK_EVENTS,
    NonoTrioFacts,
    SessionMetadata,
    completed_at,
    session_digest,
)
from nono_trio.errors import AuditLost, LogUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nono_trio.core.events import Payload

Outcome: TypeAlias = Literal["recovered", "sealed", "running", "tampered", "unreadable", "failed"]

# As `audit verify` answers for the same session; 4 is any log of ours that could not be sealed.
EXIT_CODES: dict[Outcome, int] = {
    "recovered": 0,
    "sealed": 0,
    "tampered": 1,
    "unreadable": 2,
    "failed": 4,
    "running": 5,
}

TORN = ".torn"  # what is appended to a file's name for the bytes that were cut from it
MAX_TORN = 64 * 1024 * 1024  # a torn tail is half a batch: 512 records, far below this
_GAP = re.compile(r"([0-9]{1,18}) events lost: ")


class Recovery(msgspec.Struct, kw_only=True):
    """The answer for one session; `torn_bytes` are those kept beside the log, ever."""

    schema: int = SCHEMA
    outcome: Outcome
    session_id: str
    path: str
    event_count: int = 0
    torn_bytes: int = 0
    exit_code_known: bool = False
    first_bad: FirstBad | None = None
    reason: str | None = None

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return EXIT_CODES[self.outcome]


def recover(directory: Path, step: Callable[[str], None] = lambda _name: None) -> Recovery:
    """Seal one crashed session; never raises for what it finds, the answer says it.

    `step` is told each step before it is done: the seam where tests let it fail or die.
    """
    answer = Recovery(outcome="failed", session_id=directory.name, path=str(directory))
    try:
        with _held(directory):
            _recover_held(directory, answer, step)
    except BlockingIOError:
        answer.outcome, answer.reason = "running", "a writer or another recovery holds its log"
    except LogUnreadable as error:
        answer.outcome, answer.reason = "unreadable", error.message
    except AuditLost as error:
        answer.outcome, answer.reason = "failed", error.message
    except OSError as error:
        answer.outcome = "failed"
        answer.reason = f"{error.filename or directory}: {error.strerror or error}"
    return answer


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold the session's lock; raises BlockingIOError when a writer or a recovery has it."""
    log = directory / store.LOG
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise LogUnreadable(f"{log} can't be opened: {error.strerror or error}") from error
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _recover_held(directory: Path, answer: Recovery, step: Callable[[str], None]) -> None:
    metadata = store.read_metadata(directory)
    if not isinstance(metadata.nono_trio, NonoTrioFacts):
        raise LogUnreadable(f"{directory} is no session of nono-trio: there is no seal to finish")
    if store.is_sealed(metadata):
        answer.outcome, answer.event_count = "sealed", metadata.audit_event_count
        return
    if store.is_alive(metadata):
        answer.outcome, answer.reason = "running", "its supervisor is alive"
        return
    found = _survey(directory)
    answer.first_bad = _fault(found, metadata, directory)
    if answer.first_bad is not None:
        answer.outcome = "tampered"
        answer.event_count = found.check.chain.count
        return
    _Sealing(directory, metadata, found, step).run(answer)


# -- what is there ----------------------------------------------------------------------------------


@dataclass
class _Found:
    """One reading of the log: verify's pass, and what session.json repeats of it."""

    check: LogCheck
    network_events: list[NetworkEvent] = field(default_factory=list)
    allowed: int = 0
    denied: int = 0
    lost: int = 0
    last_ms: int = 0

    def observe(self, payload: Payload) -> None:
        """Count one good record, as the writer counted it."""
        if not isinstance(payload, Network):
            return
        event = payload.event
        if len(self.network_events) < MAX_NETWORK_EVENTS:
            self.network_events.append(event)
        if event.target == LOST_TARGET:
            gap = _GAP.match(event.reason or "")
            self.lost += int(gap[1]) if gap else 0
            return
        self.last_ms = max(self.last_ms, event.timestamp_unix_ms)
        self.allowed += event.decision == "allow"
        self.denied += event.decision == "deny"


def _survey(directory: Path) -> _Found:
    checkpoints = directory / store.CHECKPOINTS
    checkpoints_size = size_of(checkpoints)
    log = directory / store.LOG
    holder: list[_Found] = []
    check = LogCheck(
        log,
        size_of(log),
        strict=True,
        sealed=False,
        observe=lambda payload: holder[0].observe(payload),
    )
    holder.append(_Found(check))
    check.run(checkpoints, checkpoints_size)
    return holder[0]


def _fault(found: _Found, metadata: SessionMetadata, directory: Path) -> FirstBad | None:
    """What makes it more than a crash; sealing it would make it look whole."""
    check = found.check
    started = check.started
    last = check.cursor.last if check.cursor is not None else None
    if check.first_bad is not None:
        return check.first_bad
    if last is not None and last.final and check.ended is None:
        return FirstBad(
            failure="last record mismatch",
            expected="session_ended before the final checkpoint",
            got="none",
        )
    fault = differs(ID_MISMATCH, directory.name, metadata.session_id)
    if fault is None and started is not None:
        fault = differs(
            SESSION_MISMATCH, f"started {started.started}", f"started {metadata.started}"
        ) or differs(SESSION_MISMATCH, f"command {started.command}", f"command {metadata.command}")
    return fault


# -- sealing ----------------------------------------------------------------------------------------


class _Sealing:
    """The steps of one recovery, in their order."""

    def __init__(
        self,
        directory: Path,
        metadata: SessionMetadata,
        found: _Found,
        step: Callable[[str], None],
    ) -> None:
        if found.check.cursor is None:
            raise AssertionError("the log was not read")
        self._directory = directory
        self._metadata = metadata
        self._found = found
        self._check = found.check
        self._cursor = found.check.cursor
        self._step = step

    def run(self, answer: Recovery) -> None:
        """Set aside, cut, end, checkpoint, ledger, session.json; raises OSError, AuditLost."""
        with contextlib.ExitStack() as opened:
            log = self._reopened(store.LOG, self._check.good_bytes, opened)
            checkpoints = self._reopened(store.CHECKPOINTS, self._cursor.whole_bytes, opened)
            flows = self._reopened(store.FLOWS, self._whole_flows(), opened)
            ledger.sync_directory(self._directory)
            answer.torn_bytes = self._torn_bytes()
            chain = self._check.chain
            chained = ChainedLog(log, chain.count, chain.head, chain.tree, self._cursor.segment)
            ended = self._end(chained)
            flows.sync()
            lost = self._checkpoint(chained, checkpoints)
            metadata = self._sealed(chained, ended, lost)
            self._publish(metadata)
        answer.outcome, answer.event_count = "recovered", chained.sequence
        answer.exit_code_known = ended.exit_code != LOST_EXIT_CODE

    def _reopened(self, name: str, whole: int, opened: contextlib.ExitStack) -> AppendFile:
        path = self._directory / name
        self._step(f"set aside {name}")
        _set_aside(path, whole)
        self._step(f"cut {name}")
        file = AppendFile.reopen(path, whole)
        opened.callback(file.close)
        return file

    def _whole_flows(self) -> int:
        path = self._directory / store.FLOWS
        return next(lines_backwards(path, size_of(path)), (0, b""))[0]

    def _torn_bytes(self) -> int:
        return size_of(self._directory / (store.LOG + TORN))

    def _end(self, chained: ChainedLog) -> SessionEnded:
        """Append what the log lacks, in one write; its own end stands where it has one."""
        self._step("end")
        ended = self._check.ended
        if ended is None:
            ended = SessionEnded(ended=self._last_sign_of_life(), exit_code=LOST_EXIT_CODE)
            payloads = [*self._missing_start(), self._note(), ended]
            chained.append([encode_payload(payload) for payload in payloads])
            for payload in payloads:
                self._found.observe(payload)
        self._step("sync")
        chained.file.sync()
        return ended

    def _missing_start(self) -> Sequence[SessionStarted]:
        """The first record, from session.json, where the supervisor was lost before writing it."""
        if self._check.chain.count:
            return ()
        return (SessionStarted(started=self._metadata.started, command=self._metadata.command),)

    def _note(self) -> Network:
        torn = self._torn_bytes()
        reason = f"recovered: {torn} bytes of a torn record cut" + (
            f", kept in {store.LOG}{TORN}" if torn else ""
        )
        if not self._check.chain.count:
            reason += "; session_started is from session.json"
        return Network(
            event=NetworkEvent(
                timestamp_unix_ms=unix_ms(),
                mode="connect",
                decision="deny",
                target=LOST_TARGET,
                reason=reason,
            )
        )

    def _last_sign_of_life(self) -> str:
        """The latest of: the start, the last checkpoint, the last decision."""
        last = self._cursor.last
        times = [self._metadata.started, last.time if last is not None else ""]
        with contextlib.suppress(ValueError, OverflowError, OSError):
            decided = datetime.fromtimestamp(self._found.last_ms / 1000, UTC)
            times.append(rfc3339(decided))
        known = [(parsed, text) for text in times if (parsed := store.parse_time(text))]
        return max(known)[1] if known else self._metadata.started

    def _checkpoint(self, chained: ChainedLog, checkpoints: AppendFile) -> int:
        """Write the final checkpoint unless it is there; return the number of lost events."""
        self._step("checkpoint")
        last = self._cursor.last
        if last is not None and last.final:
            return last.lost_total
        lost = max(last.lost_total if last is not None else 0, self._found.lost)
        append_checkpoint(checkpoints, chained.position(), lost, self._flows_sha256())
        return lost

    def _flows_sha256(self) -> str:
        path = self._directory / store.FLOWS
        hasher = hashlib.sha256()
        for line in lines(path, size_of(path)):
            hasher.update(line)
        return hasher.hexdigest()

    def _sealed(self, chained: ChainedLog, ended: SessionEnded, lost: int) -> SessionMetadata:
        found = self._found
        return sealed_metadata(
            self._metadata,
            ended,
            chained.position(),
            found.network_events,
            status="recovered",
            lost_total=lost,
            allowed_total=found.allowed,
            denied_total=found.denied,
        )

    def _publish(self, metadata: SessionMetadata) -> None:
        """The ledger first: session.json must never claim a seal that the ledger does not know."""
        root = self._directory.resolve().parent
        digest = session_digest(metadata)
        self._step("ledger")
        if ledger.verify(root, metadata.session_id).digests.get(metadata.session_id) != digest:
            ledger.append(root, metadata.session_id, digest, completed_at(metadata))
        self._step("session")
        store.write_session_json(self._directory, metadata)


def _set_aside(path: Path, whole: int) -> None:
    """Keep what is after the first `whole` bytes of `path` beside it; raises OSError, AuditLost.

    A recovery that died between the copy and the cut has kept it already.
    """
    torn = size_of(path) - whole
    if torn <= 0:
        return
    if torn > MAX_TORN:
        raise AuditLost(f"{path} ends in {torn} bytes that are no record: no crash leaves that")
    with path.open("rb") as file:
        file.seek(whole)
        tail = file.read(torn)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(f"{path}{TORN}", flags, 0o600)
    with os.fdopen(descriptor, "r+b") as kept:
        if not kept.read().endswith(tail):
            kept.write(tail)
        kept.flush()
        os.fsync(descriptor)
