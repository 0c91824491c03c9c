"""The format `otlp`: log records of OpenTelemetry, and their JSON as the collector's file exporter
writes it.

Rules of this file: attribute names are those of the semantic conventions where these have one, and
begin with `nono_trio.` otherwise. `log.record.uid` is the id of the line. 64-bit numbers are
strings in the JSON, as protobuf's mapping asks. One line of JSON has one session's records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.export.exported import (
    MAX_LONG,
    PRODUCT,
    FaultLine,
    FlowLine,
    RecordLine,
    SessionFacts,
    bounded,
    event_id,
    first_found,
    is_exfiltration,
    kind_of,
    refusal_of,
    sequence_of,
    unix_ms_of,
)
from nono_trio.core.log.events import Network, NetworkEvent, SessionEnded, SessionStarted
from nono_trio.core.log.file_events import denied_entry
from nono_trio.core.log.nono_events import CapabilityDecision
from nono_trio.core.log.notices import NO_TOKEN, is_about_log, is_binding, lost_events
from nono_trio.core.log.redaction import redact_path
from nono_trio.core.log.shown_text import target_name
from nono_trio.core.net.address import parse_address
from nono_trio.core.policy.outcome import read_reason
from nono_trio.core.policy.request_note import parse_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.core.export.exported import Exported
    from nono_trio.core.log.processes import ProcessLine

INFO, WARN, ERROR, FATAL = 9, 13, 17, 21
_SEVERITY_TEXT: Final = {INFO: "INFO", WARN: "WARN", ERROR: "ERROR", FATAL: "FATAL"}
_NANOSECONDS_A_MS: Final = 1_000_000
# The only values of the field that tell a method of HTTP.
_UNSPOKEN: Final = frozenset({"CONNECT", "DNS"})

AttributeValue: TypeAlias = str | int | bool | list[str]
Attributes: TypeAlias = dict[str, AttributeValue]


class LogRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One record, before its encoding; `time` is in nanoseconds since 1970, 0 if unknown."""

    time: int
    severity: int
    event_name: str
    body: str
    attributes: Attributes

    @property
    def severity_text(self) -> str:
        """The name of the severity."""
        return _SEVERITY_TEXT[self.severity]


def resource_of(facts: SessionFacts) -> Attributes:
    """Return the attributes of the resource: the session, its machine and its user."""
    found: dict[str, AttributeValue | None] = {
        "service.name": PRODUCT,
        "service.version": facts.version or None,
        "service.instance.id": facts.session_id,
        "session.id": facts.session_id,
        "host.name": facts.host or None,
        "user.name": facts.user or None,
        "nono_trio.session.name": facts.name,
        "nono_trio.isolation": facts.isolation or None,
        "process.command_args": [*facts.command] or None,
        "process.working_directory": facts.working_directory or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def record_of(line: Exported, facts: SessionFacts) -> LogRecord:
    """Return the log record of a line."""
    kind, unix_ms = kind_of(line), unix_ms_of(line, facts)
    time = unix_ms * _NANOSECONDS_A_MS if 0 <= unix_ms <= MAX_LONG // _NANOSECONDS_A_MS else 0
    common: Attributes = {
        "log.record.uid": event_id(facts.session_id, line),
        "session.id": facts.session_id,
        "nono_trio.sequence": bounded(sequence_of(line)),
        "nono_trio.kind": kind,
    }
    if isinstance(line, FaultLine):
        severity, own = (FATAL if line.kind == "tampered" else WARN), Attributes()
        body = line.message
    else:
        severity, body, own = _of_flow(line) if isinstance(line, FlowLine) else _of_record(line)
    return LogRecord(
        time=time,
        severity=severity,
        event_name=f"nono_trio.{kind}",
        body=body,
        attributes=common | own,
    )


def with_body(record: LogRecord, body: str) -> LogRecord:
    """Return a record whose body is another format's text; what identifies it stays."""
    return msgspec.structs.replace(record, body=body)


def _of_record(line: RecordLine) -> tuple[int, str, Attributes]:
    event = line.event
    proof: Attributes = {
        "log.record.original": line.event_json,
        "nono_trio.leaf_hash": line.leaf_hash,
        "nono_trio.chain_hash": line.chain_hash,
    }
    if isinstance(event, Network):
        severity, body, own = _of_network(event.event)
        return severity, body, own | _programs(line.programs) | proof
    entry = denied_entry(event)
    if entry is not None and isinstance(event, CapabilityDecision):
        pid = event.entry.request.child_pid
        own = {"file.path": entry.path, "nono_trio.access": entry.access.lower()}
        own |= {"process.pid": pid} if pid else {}
        return WARN, f"denied {entry.path}: {entry.reason}", own | proof
    if isinstance(event, SessionStarted):
        return INFO, f"session started: {' '.join(event.command)}", proof
    if isinstance(event, SessionEnded):
        own = {"process.exit.code": event.exit_code}
        return INFO, f"session ended with exit code {event.exit_code}", own | proof
    return INFO, kind_of(line).replace("_", " "), proof


def _of_network(event: NetworkEvent) -> tuple[int, str, Attributes]:
    if is_about_log(event):
        severity = ERROR if lost_events(event) else INFO if is_binding(event) else WARN
        return severity, event.reason or event.target, {}
    own: Attributes = {"nono_trio.decision": event.decision, "nono_trio.mode": event.mode}
    own |= _server(event.target, event.port) | _request(event)
    detail = "" if event.reason is None else f": {event.reason}"
    if event.decision == "deny":
        own["error.type"] = read_reason(event.reason or "").code.name.lower()
        own["nono_trio.reason"] = event.reason or ""
    rule = event.endpoint_policy_rule
    named = parse_note(event.reason).entry if event.decision == "allow" else ""
    if rule is not UNSET or named:
        own["security_rule.name"] = named if isinstance(rule, UnsetType) else rule
    own |= _optional(
        ("nono_trio.credential", event.route_id),
        ("nono_trio.auth_mechanism", event.auth_mechanism),
        ("nono_trio.auth_outcome", event.auth_outcome),
        ("nono_trio.injection_mode", event.injection_mode),
        ("nono_trio.denial_category", event.denial_category),
        ("nono_trio.upstream_proxy", event.upstream),
    )
    where = target_name(event.target, event.port)
    return _severity(event), f"{event.decision} {where}{detail}", own


def _of_flow(line: FlowLine) -> tuple[int, str, Attributes]:
    flow = line.flow
    own = _server(flow.target, flow.port)
    if line.decision is not None:
        own |= {"nono_trio.mode": line.decision.mode} | _request(line.decision)
    if not isinstance(flow.status, UnsetType):
        own["http.response.status_code"] = flow.status
    if flow.address is not None:
        own["network.peer.address"] = flow.address
    own |= {
        "nono_trio.bytes_up": bounded(flow.bytes_up),
        "nono_trio.bytes_down": bounded(flow.bytes_down),
        "nono_trio.duration_ms": bounded(flow.duration_ms),
        "nono_trio.closed_by": flow.closed_by,
    }
    if flow.closed_by == "error":
        own["error.type"] = "connection_error"
    size = f"{bounded(flow.bytes_up)} bytes up, {bounded(flow.bytes_down)} bytes down"
    return INFO, f"closed {target_name(flow.target, flow.port)}: {size}", own


def _server(target: str, port: int | None) -> Attributes:
    found: Attributes = {"server.address": target} if target else {}
    if port is not None:
        found["server.port"] = port
    if parse_address(target) is not None:
        found["network.peer.address"] = target
    return found


def _request(event: NetworkEvent) -> Attributes:
    found: Attributes = {}
    if event.method is not None and event.method not in _UNSPOKEN:
        found["http.request.method"] = event.method
    if event.path is not None:
        path, _, query = redact_path(event.path).partition("?")
        found["url.path"] = path
        if query:
            found["url.query"] = query
    return found


def _programs(programs: Sequence[ProcessLine]) -> Attributes:
    program = first_found(programs)
    if program is None or program.pid is None:
        return {}
    found: Attributes = {"process.pid": bounded(program.pid)}
    if program.exe:
        found["process.executable.path"] = program.exe
    if program.exe_sha256:
        found["nono_trio.executable_sha256"] = program.exe_sha256
    if program.argv:
        found["process.command_args"] = [*program.argv]
    return found


def _optional(*pairs: tuple[str, str | UnsetType]) -> Attributes:
    return {name: value for name, value in pairs if not isinstance(value, UnsetType)}


def _severity(event: NetworkEvent) -> int:
    if event.decision != "deny" or event.denial_category == NO_TOKEN:
        return INFO
    if is_exfiltration(event):
        return FATAL
    return ERROR if refusal_of(event) == "listed" else WARN


class _AnyValue(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    string_value: str | UnsetType = UNSET
    int_value: str | UnsetType = UNSET
    bool_value: bool | UnsetType = UNSET
    array_value: _ArrayValue | UnsetType = UNSET


class _ArrayValue(msgspec.Struct, kw_only=True, frozen=True):
    values: list[_AnyValue]


class _KeyValue(msgspec.Struct, kw_only=True, frozen=True):
    key: str
    value: _AnyValue


class _Record(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    time_unix_nano: str
    observed_time_unix_nano: str
    severity_number: int
    severity_text: str
    body: _AnyValue
    attributes: list[_KeyValue]
    event_name: str


class _Scope(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    version: str


class _ScopeLogs(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    scope: _Scope
    log_records: list[_Record]


class _Resource(msgspec.Struct, kw_only=True, frozen=True):
    attributes: list[_KeyValue]


class _ResourceLogs(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    resource: _Resource
    scope_logs: list[_ScopeLogs]


class _LogsData(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    resource_logs: list[_ResourceLogs]


SCOPE: Final = "nono_trio.audit"
_encoder = msgspec.json.Encoder()


def encode(records: Iterable[LogRecord], facts: SessionFacts) -> bytes:
    """Return records of one session as a line of JSON with its newline."""
    scope = _Scope(name=SCOPE, version=facts.version)
    logs = _ScopeLogs(scope=scope, log_records=[_json_record(one) for one in records])
    resource = _Resource(attributes=_key_values(resource_of(facts)))
    data = _LogsData(resource_logs=[_ResourceLogs(resource=resource, scope_logs=[logs])])
    return _encoder.encode(data) + b"\n"


def _json_record(record: LogRecord) -> _Record:
    return _Record(
        time_unix_nano=str(record.time),
        observed_time_unix_nano=str(record.time),
        severity_number=record.severity,
        severity_text=record.severity_text,
        body=_AnyValue(string_value=record.body),
        attributes=_key_values(record.attributes),
        event_name=record.event_name,
    )


def _key_values(attributes: Attributes) -> list[_KeyValue]:
    return [_KeyValue(key=name, value=_any_value(value)) for name, value in attributes.items()]


def _any_value(value: AttributeValue) -> _AnyValue:
    if isinstance(value, bool):
        return _AnyValue(bool_value=value)
    if isinstance(value, int):
        return _AnyValue(int_value=str(value))
    if isinstance(value, list):
        return _AnyValue(array_value=_ArrayValue(values=[_any_value(one) for one in value]))
    return _AnyValue(string_value=value)
