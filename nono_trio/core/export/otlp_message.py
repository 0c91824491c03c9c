"""OTLP's protobuf messages, by the official package opentelemetry-proto (extra `otlp`).

Imported late, and only where a message is sent: files of the format `otlp` need no package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as Message

from nono_trio.core.export.otlp import SCOPE, resource_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.export.exported import SessionFacts
    from nono_trio.core.export.otlp import Attributes, AttributeValue, LogRecord


class Rejected(msgspec.Struct, frozen=True):
    """The number of records that a receiver has rejected, of a request that it has taken."""

    count: int
    message: str


def encode_request(records: Sequence[LogRecord], facts: SessionFacts) -> bytes:
    """Return the body of a request with records of one session."""
    request = ExportLogsServiceRequest()
    logs = request.resource_logs.add()
    logs.resource.attributes.extend(_key_values(resource_of(facts)))
    scope = logs.scope_logs.add()
    scope.scope.name, scope.scope.version = SCOPE, facts.version
    scope.log_records.extend(map(_message, records))
    body: bytes = request.SerializeToString()
    return body


def decode_response(body: bytes) -> Rejected:
    """Return what the body of a successful answer says; raises ValueError for an invalid one."""
    try:
        answer = ExportLogsServiceResponse.FromString(body)
    except DecodeError as error:
        raise ValueError("the answer is no ExportLogsServiceResponse") from error
    partial = answer.partial_success
    return Rejected(partial.rejected_log_records, partial.error_message)


def _message(record: LogRecord) -> Message:
    return Message(
        time_unix_nano=record.time,
        observed_time_unix_nano=record.time,
        severity_number=record.severity,  # type: ignore[arg-type]  # numbers of the enumeration
        severity_text=record.severity_text,
        body=AnyValue(string_value=record.body),
        attributes=_key_values(record.attributes),
        event_name=record.event_name,
    )


def _key_values(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=name, value=_any_value(value)) for name, value in attributes.items()]


def _any_value(value: AttributeValue) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_any_value(one) for one in value]))
    return AnyValue(string_value=value)
