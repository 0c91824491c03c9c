"""`audit recover`: seal a session whose supervisor was lost, without hiding anything.

Rules of this file:
- Only a session that `audit verify` calls `crashed` is changed: verify's own pass reads the log
  first. A log with a fault, or with a live writer, stays unchanged.
- Nothing is thrown away: a torn tail is copied to `<file>.torn` and synced before it is cut.
- Nothing is invented: the facts come from the log and the files that it binds. The child's exit
  code is unknown, so `session_ended` has LOST_EXIT_CODE, and its time is the last sign of life. A
  record before it says that, and how much, was cut.
- The files are read from the disk: the page cache may hold bytes that a sync failed to write.
- With the key of a signed session, its end is signed: bundle, then final checkpoint. Without it the
  end is not, and a reader who pins the key still calls the session `crashed`.
- Root recovers the session of another user as that user (see `posix.owner`).
- After each step the session is still `crashed` and can be recovered again, until session.json says
  "recovered" in the very last step. A second recovery continues the first.

It does not need the event loop. It blocks for a few syncs and one reading of the log.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.read.records import size_of
from nono_trio.audit.recovery.acting_owner import as_verifying_owner
from nono_trio.audit.recovery.crash_scan import CrashScan
from nono_trio.audit.stored_session import FirstBad  # noqa: TC001  (for msgspec)
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.chained_log import AppendFile, ChainedLog
from nono_trio.audit.write.seal import (
    file_digest,
    sealed_metadata,
    summary_of,
    write_summary,
)
from nono_trio.audit.write.session_files import append_checkpoint, lock, open_to_lock
from nono_trio.core.log.events import LOST_EXIT_CODE, SessionEnded, SessionStarted, encode_payload
from nono_trio.core.log.notices import (
    NOT_RECORDED,
    POLICY_SEQUENCE,
    POLICY_TARGET,
    binding_record,
    gap_record,
    recovery_record,
)
from nono_trio.core.log.session_json import (
    NonoTrioFacts,
    SessionMetadata,
    completed_at,
    session_digest,
)
from nono_trio.errors import JSON_SCHEMA, AuditLost, LogUnreadable, path_hint
from nono_trio.posix.clock import unix_ms
from nono_trio.posix.disk_sync import forget_cached, sync_directory
from nono_trio.posix.safe_open import open_regular, open_to_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.write.checkpoint_signer import CheckpointSigner
    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.summary_json import SealSummary

Outcome: TypeAlias = Literal["recovered", "sealed", "running", "tampered", "unreadable", "failed"]

# The exit codes of `audit verify` for the same session, but the log of a sealed one is not read. 4
# is a log of ours that could not be sealed.
EXIT_CODES: dict[Outcome, int] = {
    "recovered": 0,
    "sealed": 0,
    "tampered": 1,
    "unreadable": 2,
    "failed": 4,
    "running": 5,
}

# All files of the session: a failed sync may have lost bytes of any of them.
_JUDGED = (
    store.LOG, store.CHECKPOINTS, store.FLOWS, store.PROCESSES, store.POLICY, store.SUMMARY,
    store.SESSION,
)  # fmt: skip

MAX_TORN = 64 * 1024 * 1024  # a torn tail is half a batch: 512 records, far below this


class Recovery(msgspec.Struct, kw_only=True):
    """The answer for one session; `torn_bytes` counts all bytes kept beside the log.

    `signed`: the end of a signed session is signed; None for a session without a key.
    """

    schema: int = JSON_SCHEMA
    outcome: Outcome
    session_id: str
    path: str
    event_count: int = 0
    torn_bytes: int = 0
    exit_code_known: bool = False
    signed: bool | None = None
    first_bad: FirstBad | None = None
    reason: str | None = None
    hint: str | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXIT_CODES[self.outcome]


def recover(
    directory: Path,
    step: Callable[[str], None] = lambda _name: None,
    signer: Signer | None = None,
) -> Recovery:
    """Seal one crashed session; raises nothing for its faults, which are in the answer.

    `signer` signs the end of a session that it signs; one of another key is not recovered then.
    `step` is called before each step: tests let it fail or die there.
    """
    answer = Recovery(outcome="failed", session_id=directory.name, path=str(directory))
    try:
        with as_verifying_owner(directory), _held(directory):
            _recover_held(directory, answer, step, signer)
    except BlockingIOError:
        answer.outcome, answer.reason = "running", _holder(directory)
    except LogUnreadable as error:
        answer.outcome, answer.reason, answer.hint = "unreadable", error.message, error.hint
    except AuditLost as error:
        answer.outcome, answer.reason, answer.hint = "failed", error.message, error.hint
    except OSError as error:
        answer.outcome = "failed"
        answer.reason = f"{error.filename or directory}: {error.strerror or error}"
    return answer


def _holder(directory: Path) -> str:
    """Return who may hold a log that can't be recovered."""
    summary = store.read_summary(directory)
    if summary is not None and store.is_alive(directory, summary):
        return "its supervisor is alive"
    return "a writer or another recovery holds its log"


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold the session's lock; raises BlockingIOError if a writer or a recovery has it."""
    log = directory / store.LOG
    try:
        descriptor = open_to_lock(log)
    except OSError as error:
        raise LogUnreadable(
            f"{log} can't be opened: {error.strerror or error}", hint=path_hint(log, error)
        ) from error
    try:
        lock(descriptor)
        for name in _JUDGED:
            forget_cached(directory / name)
        yield
    finally:
        os.close(descriptor)


def _recover_held(
    directory: Path, answer: Recovery, step: Callable[[str], None], signer: Signer | None
) -> None:
    metadata = store.read_metadata(directory)
    if not metadata.is_ours:
        raise LogUnreadable(f"{directory} is no session of nono-trio: there is no seal to finish")
    if store.is_sealed(metadata):
        answer.outcome, answer.event_count = "sealed", metadata.audit_event_count
        return
    found = CrashScan(directory)
    answer.first_bad = found.fault()
    if answer.first_bad is not None:
        answer.outcome = "tampered"
        answer.event_count = found.count
        return
    if signer is not None and found.keys not in (None, signer.public):
        raise AuditLost(
            f"it is signed with another key than {signer.public.key_id}",
            hint="recover it with its own key, or without one: its end is not signed then",
        )
    _Sealing(directory, metadata, found, step, signer).run(answer)


class _Sealing:
    """The steps of one recovery, in their order."""

    def __init__(
        self,
        directory: Path,
        metadata: SessionMetadata,
        found: CrashScan,
        step: Callable[[str], None],
        signer: Signer | None,
    ) -> None:
        self._signing = _signing(signer, directory) if found.keys is not None else None
        self._directory = directory
        self._metadata = metadata
        self._found = found
        self._step = step

    def run(self, answer: Recovery) -> None:
        """Set aside, cut, end, checkpoint, ledger, session.json; raises OSError, AuditLost."""
        with contextlib.ExitStack() as opened:
            files = {name: self._reopened(name, opened) for name in self._found.whole}
            sync_directory(self._directory)
            answer.torn_bytes = self._torn_bytes()
            log = self._found.resume(files[store.LOG])
            for name in (store.FLOWS, store.PROCESSES):
                if name in files:
                    files[name].sync()
            summary, ended = self._end(log)
            events, attestation = self._found.network_events, self._found.attestation
            sealed = sealed_metadata(
                self._metadata, ended, log.position(), events, summary, attestation
            )
            self._checkpoint(log, files[store.CHECKPOINTS], sealed)
            self._publish(sealed)
        if self._found.keys is not None:
            answer.signed = sealed.audit_attestation is not None
        if answer.signed is False:
            from nono_trio.audit.recovery.recover_command import sign_flag  # late: rare

            flag = sign_flag(self._directory)
            answer.hint = (
                f"its end stays unsigned; next time: `nono-trio audit recover --all {flag}`"
            )
        answer.outcome, answer.event_count = "recovered", log.sequence
        answer.exit_code_known = ended.exit_code != LOST_EXIT_CODE

    def _reopened(self, name: str, opened: contextlib.ExitStack) -> AppendFile:
        path, whole = self._directory / name, self._found.whole[name]
        self._step(f"set aside {name}")
        _set_aside(path, whole)
        self._step(f"cut {name}")
        file = AppendFile.reopen(path, whole)
        opened.callback(file.close)
        return file

    def _torn_bytes(self) -> int:
        """Return the size of the torn end that was kept; a link or directory there is none."""
        try:
            found = (self._directory / (store.LOG + store.TORN)).lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def _end(self, log: ChainedLog) -> tuple[SealSummary, SessionEnded]:
        """Write the summary and the missing records; if the log has its end, it is kept."""
        summary, ended = self._found.summary, self._found.ended
        if summary is None or ended is None:
            payloads = self._missing_records()
            ended = SessionEnded(
                ended=self._found.last_sign_of_life(self._metadata.started),
                exit_code=LOST_EXIT_CODE,
            )
            self._found.add(payloads)
            count = log.sequence + len(payloads) + 2  # the summary's record and the end
            summary = summary_of(
                self._directory,
                self._facts(),
                count,
                self._metadata.executable_identity,
                recovered=True,
            )
            self._step("summary")
            binding = write_summary(self._directory, summary)
            self._found.add([binding])
            self._step("end")
            log.append([encode_payload(payload) for payload in (*payloads, binding, ended)])
        self._step("sync")
        log.file.sync()
        return summary, ended

    def _facts(self) -> NonoTrioFacts:
        """The facts of the open session.json, which the policy binds, with the counts."""
        facts, tally = self._metadata.facts, self._found.tally
        return msgspec.structs.replace(
            facts,
            lost_total=tally.lost,
            allowed_total=tally.allowed,
            denied_total=tally.denied,
            attempts=self._found.attempts,
        )

    def _missing_records(self) -> list[Payload]:
        """The records before the summary's, with the first two if they are missing."""
        metadata, found = self._metadata, self._found
        start_taken, policy_taken = not found.count, found.count <= POLICY_SEQUENCE
        payloads: list[Payload] = []
        if start_taken:
            payloads.append(SessionStarted(started=metadata.started, command=metadata.command))
        if policy_taken:
            policy = found.policy_text(metadata)
            payloads.append(binding_record(POLICY_TARGET, policy, unix_ms()))
        if found.unrecorded_losses:
            payloads.append(gap_record(found.unrecorded_losses, NOT_RECORDED, unix_ms()))
        recovery = recovery_record(
            self._torn_bytes(),
            store.LOG + store.TORN,
            unix_ms(),
            start_taken=start_taken,
            policy_taken=policy_taken,
        )
        return [*payloads, recovery]

    def _checkpoint(
        self, log: ChainedLog, checkpoints: AppendFile, sealed: SessionMetadata
    ) -> None:
        """Write the final checkpoint if it is missing, and a signed one's bundle before it, which
        `sealed` then names."""
        last = self._found.last_checkpoint
        if last is not None and last.final:
            self._step("checkpoint")
            return
        if self._signing is not None and (signed := self._signing.attest(sealed)) is not None:
            self._step("bundle")
            sealed.audit_attestation, bundle = signed
            store.replace_file(self._directory, store.BUNDLE, bundle)
        self._step("checkpoint")
        flows, lost = file_digest(self._directory / store.FLOWS), self._found.tally.lost
        append_checkpoint(
            checkpoints, log.position(), lost, flows.sha256, self._signing, recovered=True
        )

    def _publish(self, metadata: SessionMetadata) -> None:
        """Write the ledger first: session.json must never claim a seal that the ledger does not
        know."""
        root = self._directory.resolve().parent
        digest = session_digest(metadata)
        self._step("ledger")
        if not ledger.verify(root, metadata.session_id).has_line_for(metadata.session_id):
            ledger_append.append(root, metadata.session_id, digest, completed_at(metadata))
        self._step("session")
        store.write_session_json(self._directory, metadata)


def _signing(signer: Signer | None, directory: Path) -> CheckpointSigner | None:
    if signer is None:
        return None
    from nono_trio.audit.write.checkpoint_signer import CheckpointSigner  # late: few are signed

    return CheckpointSigner(signer, directory.resolve().name, strict=True)


def _set_aside(path: Path, whole: int) -> None:
    """Keep the bytes after the first `whole` ones of `path` beside it; raises OSError, AuditLost.

    A recovery that died between the copy and the cut has kept them already.
    """
    torn = size_of(path) - whole
    if torn <= 0:
        return
    if torn > MAX_TORN:
        raise AuditLost(f"{path} ends in {torn} bytes that are no record: no crash leaves that")
    with open_regular(path) as file:
        file.seek(whole)
        tail = file.read(torn)
    descriptor = open_to_write(Path(f"{path}{store.TORN}"), os.O_RDWR | os.O_CREAT)
    with os.fdopen(descriptor, "r+b") as kept:
        kept.seek(-min(torn, kept.seek(0, os.SEEK_END)), os.SEEK_END)
        if kept.read(torn) != tail:
            kept.write(tail)
        kept.flush()
        os.fsync(descriptor)
