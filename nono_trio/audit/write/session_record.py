"""A session's own files from start to seal, and the order of the seal.

Rules: policy.json and an open session.json exist before the directory has the session's name, so a
crash leaves either no session or one that can be listed and verified. The end has this order, each
step durable before the next: flows, summary.json, ONE append with the summary's record and
`session_ended`, the bundle of a signed session, final checkpoint, ledger line, session.json. The
ledger comes before session.json says "sealed": a crash between the two leaves an open session that
can be recovered, never a sealed one that its ledger does not know. The space for the seal is
reserved from the start. A session that can't start leaves nothing.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.audit import store
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.disk_room import hold_file
from nono_trio.audit.write.seal import (
    opened_metadata,
    sealed_metadata,
    summary_of,
    write_summary,
)
from nono_trio.audit.write.session_files import LogFiles
from nono_trio.core.log.notices import POLICY_TARGET, binding_record
from nono_trio.core.log.policy_json import SessionPolicy, SupervisorProcess, encode_policy
from nono_trio.core.log.redaction import redact_argv
from nono_trio.core.log.session_json import (
    ExecutableIdentity,
    completed_at,
    encode_metadata,
    session_digest,
)
from nono_trio.core.log.text_limits import bounded_command
from nono_trio.posix.clock import rfc3339, unix_ms
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.posix.process_info import boot_id, process_start_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.write.checkpoint_signer import CheckpointSigner
    from nono_trio.audit.write.ledger_signer import LedgerSigner
    from nono_trio.audit.write.totals import Totals
    from nono_trio.core.log.events import Network, SessionEnded
    from nono_trio.core.log.session_json import AuditAttestation, SessionMetadata
    from nono_trio.core.log.summary_json import SealSummary
    from nono_trio.core.policy.judging import Judging


# In the sealed session.json beside the network events: hashes, counts, times.
SEAL_BYTES = 16 * 1024


class SessionFacts(msgspec.Struct, frozen=True):
    """The facts of a session before it starts; the policy's id and process are filled in."""

    command: Sequence[str]
    policy: SessionPolicy


class SessionRecord:
    """One session's directory, its policy.json, summary.json and session.json."""

    def __init__(self, audit_root: Path, facts: SessionFacts, signer: Signer | None = None) -> None:
        """Create the directory and its files, its name last; raises OSError."""
        self.session_id = store.new_session_id()
        self.started = rfc3339()
        self._began = time.monotonic()
        self._audit_root = audit_root
        self.command = bounded_command(redact_argv(facts.command))
        self.executable: ExecutableIdentity | None = None
        self.judging: Judging | None = None
        """Decides about the run's own exit code; None for a session without a command."""
        policy = msgspec.structs.replace(
            facts.policy, session_id=self.session_id, supervisor=this_process()
        )
        signing = None if signer is None else _signing(signer, policy)
        self.ledger_signer = None if signer is None else _ledger_signer(signer, audit_root)
        """Signs the ledger once the session is sealed; None without a key."""
        if signing is not None:
            policy = msgspec.structs.replace(policy, signing_keys=signing.keys)
        encoded = encode_policy(policy)
        self.policy_record = binding_record(POLICY_TARGET, encoded, unix_ms())
        """The record that binds policy.json; it must be the second record, before the command
        starts."""
        self._summary: SealSummary | None = None
        self._metadata = opened_metadata(policy, self.started, self.command)
        self.directory = store.create_session_directory(audit_root, self.session_id, hidden=True)
        try:
            self.files = LogFiles(self.directory)
            if signing is not None:
                self.files.sign_with(signing)
            store.replace_file(self.directory, store.POLICY, encoded)
            store.write_session_json(self.directory, self._metadata)
            size = len(encode_metadata(self._metadata)) + SEAL_BYTES
            self.files.hold_for_seal(size)
            with as_owner_of_path(self.directory):
                hold_file(self.directory / store.new_name(store.SUMMARY), size)
                if signing is not None:
                    hold_file(self.directory / store.new_name(store.BUNDLE), 2 * size)
            self.directory = store.publish_session_directory(self.directory)
            self.files.moved_to(self.directory)
        except BaseException:
            store.discard_session_directory(self.directory)
            raise

    def summarise(self, totals: Totals, event_count: int) -> Network:
        """Write summary.json for a log of `event_count` records; return the record that binds it.

        Call it in a thread once every producer has ended: it blocks for some syncs. Raises OSError.
        """
        with self.files.in_use():
            return self._summarise(totals, event_count)

    def _summarise(self, totals: Totals, event_count: int) -> Network:
        self.files.check_identity()  # the files of these names must be ours
        self.files.flows.sync()
        self.files.processes.sync()
        facts = msgspec.structs.replace(
            self._metadata.facts,
            peak_queue=totals.peak_queue,
            lost_total=totals.lost,
            lost_flows=totals.lost_flows or msgspec.UNSET,
            allowed_total=totals.allowed,
            denied_total=totals.denied,
            duration_ms=round((time.monotonic() - self._began) * 1000),
            attempts=totals.attempts.totals,
            run_exit_code=self._run_exit_code(totals),
        )
        sizes = {
            store.FLOWS: self.files.flows.offset,
            store.PROCESSES: self.files.processes.offset,
            store.CHECKPOINTS: self.files.checkpoints.offset,
        }
        self._summary = summary_of(
            self.directory, facts, event_count, self.executable, recovered=False, sizes=sizes
        )
        return write_summary(self.directory, self._summary)

    def _run_exit_code(self, totals: Totals) -> int | UnsetType:
        if self.judging is None or totals.exit_code is None:
            return UNSET
        return self.judging.exit_code(totals.exit_code, totals.attempts)

    def seal(self, ended: SessionEnded, totals: Totals) -> None:
        """Make the finished log durable, then write ledger and session.json. Blocking; raises
        OSError.

        Call it once, in a thread, after the writer has ended. The files are closed if it returns.
        """
        with self.files.in_use():
            self._seal(ended, totals)
        self.files.close()

    def _seal(self, ended: SessionEnded, totals: Totals) -> None:
        if self._summary is None:
            raise AssertionError("the writer ended without a summary")
        log = self.files.log
        self.files.check_identity()
        log.file.sync()
        position = log.position()
        metadata = sealed_metadata(
            self._metadata, ended, position, totals.network_events, self._summary
        )
        metadata.audit_attestation = self._attest(metadata)
        final = self.files.checkpoint(position, totals.lost, final=True)
        if final.note is UNSET:  # best-effort: a seal is signed as a whole or not at all
            metadata.audit_attestation = None
        with suppress(OSError):  # the remaining reserved space is released with the directory
            self.files.release_room()
        ledger_append.append(
            self._audit_root, self.session_id, session_digest(metadata), completed_at(metadata)
        )
        store.write_session_json(self.directory, metadata)

    def _attest(self, metadata: SessionMetadata) -> AuditAttestation | None:
        """Write the bundle of a signed session, before the final checkpoint says that it is
        there."""
        signing = self.files.signer
        signed = None if signing is None else signing.attest(metadata)
        if signed is None:  # in best-effort mode: then the final checkpoint is not signed either
            self.files.signer = None
            return None
        attestation, bundle = signed
        store.replace_file(self.directory, store.BUNDLE, bundle)
        return attestation


def _signing(signer: Signer, policy: SessionPolicy) -> CheckpointSigner:
    from nono_trio.audit.write.checkpoint_signer import CheckpointSigner  # late: few are signed

    return CheckpointSigner(signer, policy.session_id, strict=policy.audit_mode == "strict")


def _ledger_signer(signer: Signer, audit_root: Path) -> LedgerSigner:
    from nono_trio.audit.write.ledger_signer import LedgerSigner  # late: few are signed

    return LedgerSigner(audit_root, signer)


def this_process() -> SupervisorProcess:
    """Return what tells this process from every other, also after its end."""
    pid = os.getpid()
    return SupervisorProcess(pid=pid, start_ticks=process_start_ticks(pid) or 0, boot_id=boot_id())
