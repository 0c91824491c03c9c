"""The contents of a session's files when it is opened and when it is sealed.

The same functions make the files, seal them after a crash and compute them again to verify them, so
the three can't disagree. Blocking, without the loop.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from nono_trio.audit import store
from nono_trio.audit.read.records import lines, size_of
from nono_trio.core.log.notices import SUMMARY_TARGET, binding_record
from nono_trio.core.log.session_json import (
    AuditIntegrity,
    ExecutableIdentity,
    NonoTrioFacts,
    SessionMetadata,
)
from nono_trio.core.log.summary_json import FileDigest, SealSummary, encode_summary
from nono_trio.posix.clock import unix_ms

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nono_trio.audit.write.chained_log import LogPosition
    from nono_trio.core.log.events import Network, NetworkEvent, SessionEnded
    from nono_trio.core.log.policy_json import SessionPolicy, SigningKeys
    from nono_trio.core.log.session_json import AuditAttestation, Checkpoint
    from nono_trio.core.proof.public_keys import PublicKeys


def opened_metadata(policy: SessionPolicy, started: str, command: list[str]) -> SessionMetadata:
    """Return the open session.json of a session; all of it follows from the policy."""
    process = policy.supervisor
    return SessionMetadata(
        session_id=policy.session_id,
        started=started,
        command=command,
        tracked_paths=policy.asked_paths,
        merkle_roots=[],
        nono_trio=NonoTrioFacts(
            version=policy.origin.nono_trio,
            name=policy.name,
            status="open",
            supervisor_pid=process.pid,
            supervisor_start_ticks=process.start_ticks,
            boot_id=process.boot_id,
            isolation=policy.isolation,
            enforcement=policy.enforcement,
            audit_mode=policy.audit_mode,
            audit_sync=policy.audit_sync,
            working_directory=policy.working_directory,
            home=msgspec.UNSET if policy.home is None else policy.home,
        ),
    )


def sealed_metadata(
    opened: SessionMetadata,
    ended: SessionEnded,
    position: LogPosition,
    network_events: list[NetworkEvent],
    summary: SealSummary,
    attestation: AuditAttestation | None = None,
) -> SessionMetadata:
    """Return the session.json of a sealed log: `opened`, with the facts that the summary binds.

    `attestation` is that of a signed seal; `signed_attestation` knows it.
    """
    status = "recovered" if summary.recovered else "sealed"
    return msgspec.structs.replace(
        opened,
        ended=ended.ended,
        executable_identity=summary.executable_identity,
        exit_code=ended.exit_code,
        network_events=network_events,
        audit_event_count=position.event_count,
        audit_integrity=AuditIntegrity(
            event_count=position.event_count,
            chain_head=position.chain_head or "",
            merkle_root=position.merkle_root,
        ),
        audit_attestation=attestation,
        nono_trio=msgspec.structs.replace(summary.facts, status=status),
    )


def signed_attestation(policy: SessionPolicy, final: Checkpoint | None) -> AuditAttestation | None:
    """Return the attestation of a seal: it has one if the policy names keys and its final
    checkpoint is signed, because the bundle is written before that. Raises ValueError for no keys.
    """
    if policy.signing_keys is None or final is None or not final.final or final.note is UNSET:
        return None
    from nono_trio.core.log.attestation import attestation_of  # late: few sessions are signed

    return attestation_of(public_keys_of(policy.signing_keys))


def claimed_attestation(
    policy: SessionPolicy, metadata: SessionMetadata
) -> AuditAttestation | None:
    """Return the attestation in session.json if it names the policy's key; signatures are not
    checked."""
    said, keys = metadata.audit_attestation, policy.signing_keys
    if said is None or keys is None or said.public_key != keys.bundle:
        return None
    return said


def public_keys_of(keys: SigningKeys) -> PublicKeys:
    """Return the keys in a policy; raises ValueError."""
    from nono_trio.core.proof import base64_text
    from nono_trio.core.proof.public_keys import PublicKeys, parse_public_keys

    found = PublicKeys(base64_text.decode_hash(keys.note), base64_text.decode(keys.bundle))
    return parse_public_keys(found.pem().encode())


def summary_of(
    directory: Path,
    facts: NonoTrioFacts,
    event_count: int,
    executable: ExecutableIdentity | None,
    *,
    recovered: bool,
    sizes: Mapping[str, int] | None = None,
) -> SealSummary:
    """Return the summary of a session whose other files are complete; blocks, raises OSError.

    `sizes`: of files whose last bytes may be half a line that is to be cut back.
    """
    flows, processes, checkpoints = (
        file_digest(directory / name, (sizes or {}).get(name))
        for name in (store.FLOWS, store.PROCESSES, store.CHECKPOINTS)
    )
    return SealSummary(
        recovered=recovered,
        event_count=event_count,
        flows=flows,
        processes=processes,
        checkpoints=checkpoints,
        executable_identity=executable,
        facts=msgspec.structs.replace(facts, status=msgspec.UNSET),
    )


def write_summary(directory: Path, summary: SealSummary) -> Network:
    """Write summary.json and make it durable; return the record that binds it."""
    encoded = encode_summary(summary)
    store.replace_file(directory, store.SUMMARY, encoded)
    return binding_record(SUMMARY_TARGET, encoded, unix_ms())


def file_digest(path: Path, size: int | None = None) -> FileDigest:
    """Return the digest of a file, or of its first `size` bytes; a missing file counts as empty."""
    length, hasher = 0, hashlib.sha256()
    for line in lines(path, size_of(path) if size is None else size):
        length += len(line)
        hasher.update(line)
    return FileDigest(bytes=length, sha256=hasher.hexdigest())
