"""OCSF objects as far as we fill them, and one type for all classes of events.

Rules of this file: the names are OCSF's. A field that is not known is left out, never null. What an
older version requires (`vendor_name`, the `name` of a file) is always there. `hostname` is a type
with a pattern in OCSF 1.3, so text that does not fit goes to `name`.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.late import late_pattern

OCSF_VERSION: Final = "1.8.0"
INTEGRITY_VERSION: Final = "1.9.0-dev"

# Names of the profiles whose attributes an event has.
SECURITY_CONTROL: Final = "security_control"
HOST: Final = "host"
NETWORK_PROXY: Final = "network_proxy"
INTEGRITY: Final = "record_integrity"

_HOSTNAME: Final = late_pattern(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
)


class Product(msgspec.Struct, kw_only=True, frozen=True):
    """The software that reports, or that an event is about."""

    name: str
    vendor_name: str
    version: str | UnsetType = UNSET


class Metadata(msgspec.Struct, kw_only=True, frozen=True):
    """The reporting product, and the identity of the event."""

    version: str
    product: Product
    profiles: list[str]
    uid: str
    correlation_uid: str
    sequence: int
    log_name: str
    event_code: str


class Endpoint(msgspec.Struct, kw_only=True, frozen=True):
    """One end of a connection."""

    hostname: str | UnsetType = UNSET
    ip: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    svc_name: str | UnsetType = UNSET
    port: int | UnsetType = UNSET


class ConnectionInfo(msgspec.Struct, kw_only=True, frozen=True):
    """Direction 2: outbound. Protocol 6: TCP, 17: UDP."""

    direction_id: int = 2
    protocol_num: int | UnsetType = UNSET
    protocol_name: str | UnsetType = UNSET


class Url(msgspec.Struct, kw_only=True, frozen=True):
    """The URL of a request; values of its query are redacted."""

    hostname: str | UnsetType = UNSET
    port: int | UnsetType = UNSET
    path: str
    query_string: str | UnsetType = UNSET


class HttpRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The request of an HTTP event."""

    http_method: str | UnsetType = UNSET
    url: Url


class HttpResponse(msgspec.Struct, kw_only=True, frozen=True):
    """Its answer; `latency` in milliseconds to the first byte."""

    code: int
    latency: int | UnsetType = UNSET


class Traffic(msgspec.Struct, kw_only=True, frozen=True):
    """Bytes of a connection; `bytes_out` left the cage."""

    bytes: int
    bytes_in: int
    bytes_out: int


class Fingerprint(msgspec.Struct, kw_only=True, frozen=True):
    """A SHA-256 in hex. The last two fields are of OCSF 1.9: encoding 1 is hex, 99 is other."""

    algorithm_id: int = 3
    value: str
    encoding_id: int | UnsetType = UNSET
    serialization_id: int | UnsetType = UNSET


class File(msgspec.Struct, kw_only=True, frozen=True):
    """A file; type 0: unknown, 1: regular."""

    name: str
    type_id: int
    path: str | UnsetType = UNSET
    hashes: list[Fingerprint] | UnsetType = UNSET


class Process(msgspec.Struct, kw_only=True, frozen=True):
    """A program that runs; it has a pid or the id of its session."""

    pid: int | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    cmd_line: str | UnsetType = UNSET
    file: File | UnsetType = UNSET


class User(msgspec.Struct, kw_only=True, frozen=True):
    """The user of a session."""

    name: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET


class Actor(msgspec.Struct, kw_only=True, frozen=True):
    """The process and user that acted."""

    process: Process
    user: User | UnsetType = UNSET


class Device(msgspec.Struct, kw_only=True, frozen=True):
    """The machine of a session; type 0: unknown."""

    type_id: int = 0
    hostname: str | UnsetType = UNSET
    name: str | UnsetType = UNSET


class FirewallRule(msgspec.Struct, kw_only=True, frozen=True):
    """The entry of a policy that decided."""

    name: str
    type: str | UnsetType = UNSET


class DnsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """A look-up."""

    hostname: str


class Analytic(msgspec.Struct, kw_only=True, frozen=True):
    """The rule behind a finding; type 9: exact data match."""

    type_id: int = 9
    name: str


class FindingInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The title and description of a finding."""

    uid: str
    title: str
    desc: str | UnsetType = UNSET
    created_time: int | UnsetType = UNSET
    analytic: Analytic | UnsetType = UNSET


class Evidence(msgspec.Struct, kw_only=True, frozen=True):
    """The evidence of a finding."""

    dst_endpoint: Endpoint | UnsetType = UNSET
    process: Process | UnsetType = UNSET


class PreviousEvent(msgspec.Struct, kw_only=True, frozen=True):
    """The record before one in its chain."""

    uid: str
    fingerprint: Fingerprint


class Attestation(msgspec.Struct, kw_only=True, frozen=True):
    """The place of an event's record in the hash chain of its log (OCSF 1.9)."""

    uid: str
    chain_uid: str
    fingerprint: Fingerprint
    prev_event: PreviousEvent | UnsetType = UNSET
    authority_uid: str | UnsetType = UNSET


class Event(msgspec.Struct, kw_only=True, frozen=True):
    """An event of any class that we write."""

    category_uid: int
    class_uid: int
    activity_id: int
    type_uid: int
    severity_id: int
    time: int
    metadata: Metadata
    activity_name: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    status_id: int | UnsetType = UNSET
    status_code: str | UnsetType = UNSET
    status_detail: str | UnsetType = UNSET
    start_time: int | UnsetType = UNSET
    end_time: int | UnsetType = UNSET
    duration: int | UnsetType = UNSET
    action_id: int | UnsetType = UNSET
    disposition_id: int | UnsetType = UNSET
    firewall_rule: FirewallRule | UnsetType = UNSET
    actor: Actor | UnsetType = UNSET
    device: Device | UnsetType = UNSET
    dst_endpoint: Endpoint | UnsetType = UNSET
    proxy_endpoint: Endpoint | UnsetType = UNSET
    connection_info: ConnectionInfo | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    http_request: HttpRequest | UnsetType = UNSET
    http_response: HttpResponse | UnsetType = UNSET
    traffic: Traffic | UnsetType = UNSET
    query: DnsQuery | UnsetType = UNSET
    file: File | UnsetType = UNSET
    app: Product | UnsetType = UNSET
    finding_info: FindingInfo | UnsetType = UNSET
    evidences: list[Evidence] | UnsetType = UNSET
    attestation: Attestation | UnsetType = UNSET
    unmapped: dict[str, str | bool] | UnsetType = UNSET
    raw_data: str | UnsetType = UNSET


def is_hostname(text: str) -> bool:
    """Return True for a text that every version of OCSF takes as a host's name."""
    return len(text) <= 253 and _HOSTNAME.fullmatch(text) is not None
