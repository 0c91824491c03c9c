"""The summaries beside a log, session.json and checkpoints.ndjson, and the session digest.

Rules of this file: field order is the format. A file of upstream must load, so its optional fields
have defaults. Our own facts are in one key at the end, `nono_trio`, which upstream ignores and the
session digest does not cover. Readers use `facts`, which every session has.
"""

import hashlib
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import NetworkEvent

MAX_NETWORK_EVENTS = 4096  # upstream's cap for session.json; the log itself is not capped
HASH_ALGORITHM = "sha256"

SessionStatus: TypeAlias = Literal["open", "sealed", "recovered"]


class ExecutableIdentity(msgspec.Struct, kw_only=True, frozen=True):
    """The program that was started: its canonical path and the SHA-256 (hex) of its bytes."""

    resolved_path: str
    sha256: str


class AuditIntegrity(msgspec.Struct, kw_only=True, frozen=True):
    """Counts and hashes of the sealed log; hashes in lower-case hex."""

    hash_algorithm: str = HASH_ALGORITHM
    event_count: int
    chain_head: str
    merkle_root: str


BUNDLE_FILENAME = "audit-attestation.bundle"


class AuditAttestation(msgspec.Struct, kw_only=True, frozen=True):
    """The place of the signature and its key (`public_key`: base64 of the DER SPKI)."""

    predicate_type: str
    key_id: str
    public_key: str
    bundle_filename: str


class AttemptTotals(msgspec.Struct, kw_only=True, frozen=True):
    """The attempts of a session; core/policy/attempts.py counts them."""

    allowed: int
    denied: int
    failed: int


class NonoTrioFacts(msgspec.Struct, kw_only=True, frozen=True):
    """Facts without a field in upstream's session.json; every field may be absent."""

    version: str | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    status: SessionStatus | UnsetType = UNSET
    supervisor_pid: int | UnsetType = UNSET
    supervisor_start_ticks: int | UnsetType = UNSET  # /proc/<pid>/stat; macOS: seconds
    boot_id: str | UnsetType = UNSET
    child_pid: int | UnsetType | None = UNSET
    isolation: str | UnsetType = UNSET
    enforcement: list[str] | UnsetType = UNSET
    audit_mode: str | UnsetType = UNSET
    audit_sync: str | UnsetType = UNSET
    working_directory: str | UnsetType = UNSET
    home: str | UnsetType = UNSET
    peak_queue: int | UnsetType = UNSET
    lost_total: int | UnsetType = UNSET
    lost_flows: int | UnsetType = UNSET  # connections without a line in flows.ndjson, if any
    allowed_total: int | UnsetType = UNSET
    denied_total: int | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    attempts: AttemptTotals | UnsetType = UNSET
    run_exit_code: int | UnsetType = UNSET  # of `nono-trio run`; session_ended has the command's


NO_FACTS = NonoTrioFacts()


class _HasFacts:
    """The part of session.json about its writer."""

    __slots__ = ()
    nono_trio: NonoTrioFacts | UnsetType

    @property
    def facts(self) -> NonoTrioFacts:
        """Our own facts; all of them are absent in a session.json of upstream's."""
        return NO_FACTS if self.nono_trio is UNSET else self.nono_trio

    @property
    def is_ours(self) -> bool:
        """True if nono-trio wrote it."""
        return self.nono_trio is not UNSET


class SessionMetadata(_HasFacts, msgspec.Struct, kw_only=True):
    """session.json; times are RFC 3339, `network_events` holds the first 4096 only."""

    session_id: str
    started: str
    ended: str | None = None
    command: list[str]
    executable_identity: ExecutableIdentity | None = None
    tracked_paths: list[str]
    snapshot_count: int = 0
    exit_code: int | None = None
    merkle_roots: list[str]
    network_events: list[NetworkEvent] = msgspec.field(default_factory=list)
    audit_event_count: int = 0
    audit_integrity: AuditIntegrity | None = None
    audit_attestation: AuditAttestation | None = None
    command_policy_summary: Any = UNSET
    nono_trio: NonoTrioFacts | UnsetType = UNSET


class SessionSummary(_HasFacts, msgspec.Struct, kw_only=True, frozen=True):
    """The part of session.json for listing and looking up.

    Its decoder skips the network events: a listing of a thousand sessions must not build millions
    of objects.
    """

    session_id: str
    started: str
    ended: str | None = None
    command: list[str]
    tracked_paths: list[str] = msgspec.field(default_factory=list)
    exit_code: int | None = None
    audit_event_count: int = 0
    audit_integrity: AuditIntegrity | None = None
    nono_trio: NonoTrioFacts | UnsetType = UNSET


class Checkpoint(msgspec.Struct, kw_only=True, frozen=True):
    """One line of checkpoints.ndjson: the part of the log that was durable at a time.

    `offset` is the number of log bytes covered. `segment_xxh3` is the XXH3-64 (16 hex digits) of
    those since the previous checkpoint: it detects bit rot and torn writes, it proves nothing.
    In a signed session, `note` is a C2SP signed note about the log's RFC 6962 tree, and
    `line_signature` (base64) an Ed25519 signature over `signed_bytes`. `recovered` (true) is in a
    final one that a recovery has signed.
    """

    v: Literal[1] = 1
    time: str
    event_count: int
    offset: int
    chain_head: str | None
    merkle_root: str
    lost_total: int = 0
    segment_xxh3: str
    final: bool = False
    flows_sha256: str | UnsetType = UNSET
    recovered: bool | UnsetType = UNSET
    note: str | UnsetType = UNSET
    line_signature: str | UnsetType = UNSET


class _DigestIdentity(msgspec.Struct, kw_only=True):
    resolved_path: list[int]
    sha256: str


class _SessionDigest(msgspec.Struct, kw_only=True):
    """The fields of the session digest: session.json with paths as arrays of byte values."""

    session_id: str
    started: str
    ended: str | None
    command: list[str]
    executable_identity: _DigestIdentity | None
    tracked_paths: list[list[int]]
    snapshot_count: int
    exit_code: int | None
    merkle_roots: list[str]
    network_events: list[NetworkEvent]
    audit_event_count: int
    audit_integrity: AuditIntegrity | None
    audit_attestation: AuditAttestation | None
    command_policy_summary: Any = UNSET


_encoder = msgspec.json.Encoder()
_metadata_decoder = late_decoder(SessionMetadata)
_summary_decoder = late_decoder(SessionSummary)
_checkpoint_decoder = late_decoder(Checkpoint)

_DIGEST_DOMAIN = b"nono.audit.session-digest.alpha\n"


def encode_metadata(metadata: SessionMetadata) -> bytes:
    """Return session.json: indented, one newline at the end."""
    return msgspec.json.format(_encoder.encode(metadata), indent=2) + b"\n"


def decode_metadata(data: bytes) -> SessionMetadata:
    """Return the whole session.json; raises msgspec.DecodeError, UnicodeDecodeError,
    RecursionError."""
    return _metadata_decoder.decode(data)


def decode_summary(data: bytes) -> SessionSummary:
    """Return session.json without its network events; raises what `decode_metadata` raises."""
    return _summary_decoder.decode(data)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return one line of checkpoints.ndjson, with its newline."""
    return _encoder.encode(checkpoint) + b"\n"


def signed_bytes(checkpoint: Checkpoint) -> bytes:
    """Return what `line_signature` covers: the line without that field and without its newline."""
    return _encoder.encode(msgspec.structs.replace(checkpoint, line_signature=UNSET))


def decode_checkpoint(line: bytes) -> Checkpoint:
    """Return the checkpoint in one line; raises msgspec.DecodeError, UnicodeDecodeError."""
    return _checkpoint_decoder.decode(line)


def completed_at(metadata: SessionMetadata) -> str:
    """Return the time for a ledger line."""
    return metadata.ended or metadata.started


def session_digest(metadata: SessionMetadata) -> str:
    """Return the digest in a session's ledger line (64 hex digits); `nono_trio` is not covered."""
    return hashlib.sha256(_DIGEST_DOMAIN + digest_payload(metadata)).hexdigest()


def digest_payload(metadata: SessionMetadata) -> bytes:
    """Return the JSON that the session digest covers, behind its domain."""
    covered = _SessionDigest(
        session_id=metadata.session_id,
        started=metadata.started,
        ended=metadata.ended,
        command=metadata.command,
        executable_identity=_digest_identity(metadata.executable_identity),
        tracked_paths=[_byte_values(path) for path in metadata.tracked_paths],
        snapshot_count=metadata.snapshot_count,
        exit_code=metadata.exit_code,
        merkle_roots=metadata.merkle_roots,
        network_events=metadata.network_events,
        audit_event_count=metadata.audit_event_count,
        audit_integrity=metadata.audit_integrity,
        audit_attestation=metadata.audit_attestation,
        command_policy_summary=metadata.command_policy_summary,
    )
    return _encoder.encode(covered)


def _digest_identity(identity: ExecutableIdentity | None) -> _DigestIdentity | None:
    if identity is None:
        return None
    return _DigestIdentity(
        resolved_path=_byte_values(identity.resolved_path), sha256=identity.sha256
    )


def _byte_values(path: str) -> list[int]:
    return list(path.encode("utf-8", "surrogateescape"))
