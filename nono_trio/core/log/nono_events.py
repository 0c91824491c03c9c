"""Payloads that only upstream nono writes: approvals, opened URLs, command policies.

Kept apart because nono-trio never makes one of them; it must read them to verify a log of
upstream. The same rule as in events.py: the order of the fields is the format.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

# Upstream's integer widths: a value outside them is refused when read, as serde refuses it.
U16: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
# msgspec has no bound past 63 bits, so only the lower end of a u64 is held.
U64: TypeAlias = Annotated[int, Meta(ge=0)]
I32: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class Timestamp(msgspec.Struct, kw_only=True, frozen=True):
    """Rust's SystemTime as serde writes it."""

    secs_since_epoch: U64
    nanos_since_epoch: U32


class CapabilityRequest(
    msgspec.Struct, kw_only=True, frozen=True, tag_field="capability_type", tag="capability"
):
    """The child asked for a path."""

    request_id: str
    path: str
    access: Literal["Read", "Write", "ReadWrite"]
    reason: str | None = None
    child_pid: U32
    session_id: str


class NetworkRequest(
    msgspec.Struct, kw_only=True, frozen=True, tag_field="capability_type", tag="network"
):
    """The child asked for a connection."""

    request_id: str
    host: str
    port: U16
    protocol: str
    resolved_ips: list[str]
    reason: str | None = None
    child_pid: U32
    session_id: str


class EndpointRequest(
    msgspec.Struct, kw_only=True, frozen=True, tag_field="capability_type", tag="endpoint"
):
    """The child asked for one endpoint of a service."""

    request_id: str
    route_id: str
    upstream: str
    method: str
    path: str
    rule_label: str
    reason: str | None = None
    child_pid: U32
    session_id: str


class CommandRequest(
    msgspec.Struct, kw_only=True, frozen=True, tag_field="capability_type", tag="command"
):
    """The child asked to run a command."""

    request_id: str
    command: str
    args: list[str]
    caller: str
    intercept_rule: str
    reason: str | None = None
    child_pid: U32
    session_id: str


class DenialReason(msgspec.Struct, kw_only=True, frozen=True):
    """Why an approval was refused."""

    reason: str


class Denied(msgspec.Struct, kw_only=True, frozen=True):
    """serde's form of an enum variant that carries data: an object with one key."""

    Denied: DenialReason


class CapabilityEntry(msgspec.Struct, kw_only=True, frozen=True):
    """One asked-for capability and the answer."""

    timestamp: Timestamp
    request: CapabilityRequest | NetworkRequest | EndpointRequest | CommandRequest
    decision: Literal["Granted", "Timeout"] | Denied
    backend: str
    duration_ms: U64


class CapabilityDecision(msgspec.Struct, kw_only=True, frozen=True, tag="capability_decision"):
    """An approval was asked for and answered."""

    entry: CapabilityEntry


class UrlOpenRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The child asked for a URL to be opened outside the cage."""

    request_id: str
    url: str
    child_pid: U32
    session_id: str


class UrlOpen(msgspec.Struct, kw_only=True, frozen=True, tag="url_open"):
    """A URL was opened, or not."""

    request: UrlOpenRequest
    success: bool
    error: str | None = None


class EnvironmentDisplay(msgspec.Struct, kw_only=True, frozen=True):
    """One environment variable as it may be shown."""

    name: str
    value_display: str


class StreamUsage(msgspec.Struct, kw_only=True, frozen=True):
    """Bytes of one standard stream of a command."""

    total_bytes: U64
    forwarded_bytes: U64
    max_bytes: U64 | UnsetType = UNSET
    limit_exceeded: bool
    on_limit: str | UnsetType = UNSET


class CommandStdio(msgspec.Struct, kw_only=True, frozen=True):
    """Bytes of a command's output."""

    stdout: StreamUsage | UnsetType = UNSET
    stderr: StreamUsage | UnsetType = UNSET


class CommandPolicyEvent(msgspec.Struct, kw_only=True, frozen=True):
    """A decision of a command policy about a command of the child."""

    timestamp: str
    session_id: str | UnsetType = UNSET
    command: str
    caller: str
    caller_kind: str | UnsetType = UNSET
    caller_command: str | UnsetType = UNSET
    caller_pid: U32 | UnsetType = UNSET
    shim_pid: U32 | UnsetType = UNSET
    session_root_pid: U32 | UnsetType = UNSET
    decision: str
    reason: str | None = None
    stdio_mode: str
    argv_hash: str
    env_name_hash: str
    cwd_hash: str
    argv_display: list[str]
    env_names_display: list[str]
    env_display: list[EnvironmentDisplay] | UnsetType = UNSET
    cwd_display: str
    exit_code: I32 | None = None
    stdio: CommandStdio | UnsetType = UNSET


class CommandPolicy(msgspec.Struct, kw_only=True, frozen=True, tag="command_policy"):
    """A command policy decided."""

    event: CommandPolicyEvent
