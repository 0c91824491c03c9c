"""The contents of an audit log: the seven payloads, the network event, and the flow line.

Rules of this file: the order of the fields is the format (records are hashed as bytes), so a field
is never moved; a field that may be left out is `UNSET` by default, a field that is always written
is `None` by default. We write the first four payloads and read all seven, because a log of upstream
nono must verify too. Encoding is byte-identical to upstream's serde_json (compact, non-ASCII
unescaped, control characters as `\\u00xx`).
"""

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.late import late_decoder
from nono_trio.core.log.nono_events import (
    I32,
    U16,
    U32,
    U64,
    CapabilityDecision,
    CommandPolicy,
    UrlOpen,
)

# Every exception that decoding untrusted JSON can raise, from msgspec and from json.
MALFORMED = (msgspec.DecodeError, ValueError, RecursionError)

Mode: TypeAlias = Literal["connect", "connect_intercept", "reverse", "external"]
Decision: TypeAlias = Literal[
    "allow",
    "deny",
    "approve_requested",
    "approve_granted",
    "approve_denied",
    "approve_timeout",
    "approve_error",
]
AuthMechanism: TypeAlias = Literal[
    "proxy_authorization",
    "phantom_header",
    "phantom_path",
    "phantom_query",
    "spiffe_jwt_bearer",
    "spiffe_o_auth_assertion",
]
AuthOutcome: TypeAlias = Literal["succeeded", "failed"]
InjectionMode: TypeAlias = Literal[
    "header", "url_path", "query_param", "basic_auth", "o_auth2", "spiffe_jwt"
]
DenialCategory: TypeAlias = Literal[
    "authentication_failed",
    "endpoint_policy",
    "managed_credential_unavailable",
    "host_denied",
    "intercept_handshake_failed",
    "upstream_connect_failed",
    "connect_bypasses_l7",
    "external_proxy_rejected",
    "unsupported_upgrade",
]
# No child can end with it, and upstream's registry uses it for a session without its supervisor.
LOST_EXIT_CODE = -1

ClosedBy: TypeAlias = Literal["client", "upstream", "shutdown", "idle", "error"]


class SpiffeDelegation(msgspec.Struct, kw_only=True, frozen=True):
    """The party for which a workload identity acts."""

    authorized_by: str
    on_behalf_of: str | UnsetType = UNSET
    chain_depth: U32


class SpiffeContext(msgspec.Struct, kw_only=True, frozen=True):
    """The workload identity that made a request."""

    workload_spiffe_id: str
    trust_domain: str
    svid_type: str
    source: str
    upstream_spiffe_id: str | UnsetType = UNSET
    delegation: SpiffeDelegation | UnsetType = UNSET


class NetworkEvent(msgspec.Struct, kw_only=True, frozen=True):
    """One network decision; `timestamp_unix_ms` in milliseconds since 1970, `port` 0-65535."""

    timestamp_unix_ms: U64
    mode: Mode
    decision: Decision
    route_id: str | UnsetType = UNSET
    auth_mechanism: AuthMechanism | UnsetType = UNSET
    auth_outcome: AuthOutcome | UnsetType = UNSET
    managed_credential_active: bool | UnsetType = UNSET
    injection_mode: InjectionMode | UnsetType = UNSET
    denial_category: DenialCategory | UnsetType = UNSET
    endpoint_policy_action: str | UnsetType = UNSET
    endpoint_policy_rule: str | UnsetType = UNSET
    approval_backend: str | UnsetType = UNSET
    credential_capture_action: str | UnsetType = UNSET
    credential_capture_name: str | UnsetType = UNSET
    credential_capture_command: str | UnsetType = UNSET
    credential_capture_argv: list[str] | UnsetType = UNSET
    credential_capture_exit_status: I32 | UnsetType = UNSET
    credential_capture_duration_ms: U64 | UnsetType = UNSET
    credential_capture_stdout_bytes: U64 | UnsetType = UNSET
    credential_capture_stderr: str | UnsetType = UNSET
    credential_capture_cache_scope: str | UnsetType = UNSET
    credential_capture_output_format: str | UnsetType = UNSET
    credential_capture_header_names: list[str] | UnsetType = UNSET
    credential_capture_stdin_mode: str | UnsetType = UNSET
    credential_capture_interactive: bool | UnsetType = UNSET
    spiffe_context: SpiffeContext | UnsetType = UNSET
    target: str
    upstream: str | UnsetType = UNSET
    port: U16 | None = None
    method: str | None = None
    path: str | None = None
    status: U16 | None = None
    reason: str | None = None


class SandboxRuntimeEvent(msgspec.Struct, kw_only=True, frozen=True):
    """The enforcement of the kernel; `timestamp` is RFC 3339 in UTC."""

    timestamp: str
    platform: str
    landlock_abi: str | UnsetType = UNSET
    landlock_execute_enforced: bool | UnsetType = UNSET
    tool_sandbox_active: bool


class RedactionPolicyDiff(msgspec.Struct, kw_only=True, frozen=True):
    """How the redaction of a session differed from upstream's default; empty lists are left out."""

    added_flags: list[str] | UnsetType = UNSET
    removed_flags: list[str] | UnsetType = UNSET
    added_headers: list[str] | UnsetType = UNSET
    removed_headers: list[str] | UnsetType = UNSET
    added_query_keys: list[str] | UnsetType = UNSET
    removed_query_keys: list[str] | UnsetType = UNSET
    added_env_vars: list[str] | UnsetType = UNSET
    removed_env_vars: list[str] | UnsetType = UNSET


class SessionStarted(msgspec.Struct, kw_only=True, frozen=True, tag="session_started"):
    """First record of every session; `command` is redacted, `started` RFC 3339."""

    started: str
    command: list[str]
    redaction_policy: RedactionPolicyDiff | UnsetType = UNSET


class SessionEnded(msgspec.Struct, kw_only=True, frozen=True, tag="session_ended"):
    """Last record of a sealed session; `exit_code` is the child's, as a shell gives it (0-255).

    A recovered session has LOST_EXIT_CODE: the child's exit code is unknown.
    """

    ended: str
    exit_code: I32


class Network(msgspec.Struct, kw_only=True, frozen=True, tag="network"):
    """One network decision."""

    event: NetworkEvent


class SandboxRuntime(msgspec.Struct, kw_only=True, frozen=True, tag="sandbox_runtime"):
    """The enforcement of the kernel on the child."""

    event: SandboxRuntimeEvent


Payload: TypeAlias = (
    SessionStarted
    | SessionEnded
    | Network
    | SandboxRuntime
    | CapabilityDecision
    | UrlOpen
    | CommandPolicy
)


class Flow(msgspec.Struct, kw_only=True, frozen=True):
    """One line of flows.ndjson: the result of an allowed connection, written at its end.

    `sequence` is that of its decision record, times are milliseconds, bytes are counted per
    direction (up = from the child). `address` is the dialled address (None: none was dialled),
    `name` its full name if it differs from the target's. A request has the `status` of its answer,
    and the time to its first byte.
    """

    sequence: int
    target: str
    port: int | None = None
    address: str | None = None
    opened_unix_ms: int
    duration_ms: int
    bytes_up: int
    bytes_down: int
    closed_by: ClosedBy
    name: str | UnsetType = UNSET
    status: U16 | UnsetType = UNSET
    first_byte_ms: int | UnsetType = UNSET


_encoder = msgspec.json.Encoder()
_payload_decoder: msgspec.json.Decoder[Payload] = late_decoder(Payload)
_flow_decoder = late_decoder(Flow)


def encode_payload(payload: Payload) -> bytes:
    """Return the canonical JSON of a payload: the bytes that are hashed.

    Raises UnicodeEncodeError for text with lone surrogates; the caller must prevent it.
    """
    return _encoder.encode(payload)


def encode_payloads(payloads: Iterable[Payload]) -> list[bytes]:
    """As `encode_payload`, for each of many."""
    return list(map(_encoder.encode, payloads))


def decode_payload(data: bytes | msgspec.Raw) -> Payload:
    """Return the payload in `data`; unknown keys are ignored, like upstream ignores them.

    Raises msgspec.DecodeError (also for a wrong type or an unknown `type`), UnicodeDecodeError, and
    RecursionError for nesting deeper than the interpreter allows.
    """
    return _payload_decoder.decode(data)


def encode_flow(flow: Flow) -> bytes:
    """Return one line of flows.ndjson, with its newline."""
    return _encoder.encode(flow) + b"\n"


def encode_flows(flows: Iterable[Flow]) -> list[bytes]:
    """As `encode_flow`, for each of many."""
    return [line + b"\n" for line in map(_encoder.encode, flows)]


def decode_flow(line: bytes) -> Flow:
    """Return the flow in one line; raises msgspec.DecodeError and UnicodeDecodeError."""
    return _flow_decoder.decode(line)
