"""The parts of an OCSF event that are the same in every class: who, where, when and its proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.export.exported import (
    PRODUCT,
    Exported,
    RecordLine,
    bounded,
    event_id,
    first_found,
    kind_of,
    sequence_of,
    unix_ms_of,
)
from nono_trio.core.export.ocsf.objects import (
    HOST,
    INTEGRITY,
    INTEGRITY_VERSION,
    NETWORK_PROXY,
    OCSF_VERSION,
    SECURITY_CONTROL,
    Actor,
    Attestation,
    Device,
    Endpoint,
    Event,
    File,
    Fingerprint,
    Metadata,
    PreviousEvent,
    Process,
    Product,
    User,
    is_hostname,
)
from nono_trio.core.log.processes import program_name
from nono_trio.core.net.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.export.exported import SessionFacts
    from nono_trio.core.log.processes import ProcessLine

LOG_NAME: Final = "audit-events.ndjson"
FLOWS_NAME: Final = "flows.ndjson"

# Category, class: what `type_uid` is made of.
NETWORK_ACTIVITY: Final = (4, 4001)
HTTP_ACTIVITY: Final = (4, 4002)
DNS_ACTIVITY: Final = (4, 4003)
FILE_ACTIVITY: Final = (1, 1001)
DETECTION_FINDING: Final = (2, 2004)
APPLICATION_LIFECYCLE: Final = (6, 6002)
BASE_EVENT: Final = (0, 0)
# They have no action in OCSF 1.3.
_WITHOUT_ACTION: Final = (APPLICATION_LIFECYCLE, BASE_EVENT)

OTHER: Final = 99
INFORMATIONAL, LOW, MEDIUM, HIGH, CRITICAL = 1, 2, 3, 4, 5
SUCCESS, FAILURE = 1, 2


def make_event(
    line: Exported,
    facts: SessionFacts,
    kind: tuple[int, int],
    activity: int,
    severity: int,
    **fields: object,
) -> Event:
    """Return an event of the class `kind`; `fields` are those of its class."""
    category, uid = kind
    profiles = [] if kind == BASE_EVENT else [HOST]
    if kind not in _WITHOUT_ACTION:
        profiles.append(SECURITY_CONTROL)
    if "proxy_endpoint" in fields:
        profiles.append(NETWORK_PROXY)
    if kind != BASE_EVENT:
        fields.setdefault("device", device_of(facts))
        fields.setdefault("actor", actor_of(line, facts))
    is_record = isinstance(line, RecordLine)
    return Event(
        category_uid=category,
        class_uid=uid,
        activity_id=activity,
        type_uid=uid * 100 + activity,
        severity_id=severity,
        time=bounded(unix_ms_of(line, facts)),
        metadata=Metadata(
            version=OCSF_VERSION,
            product=product_of(facts),
            profiles=profiles,
            uid=event_id(facts.session_id, line),
            correlation_uid=facts.session_id,
            sequence=bounded(sequence_of(line)),
            log_name=LOG_NAME if is_record else FLOWS_NAME,
            event_code=kind_of(line),
        ),
        raw_data=line.event_json if isinstance(line, RecordLine) else UNSET,
        **fields,  # type: ignore[arg-type]  # the callers name fields of Event
    )


def attested(event: Event, line: RecordLine, facts: SessionFacts) -> Event:
    """Return the event of a record with the record's place in its chain, in OCSF 1.9.

    The fingerprint is the record's leaf hash, over `raw_data` behind the prefix of the log's
    format, so its serialization is "other".
    """
    before: PreviousEvent | UnsetType = UNSET
    if line.prev_chain is not None:
        before = PreviousEvent(
            uid=f"{facts.session_id}/{line.sequence - 1}", fingerprint=_hash(line.prev_chain)
        )
    attestation = Attestation(
        uid=line.chain_hash,
        chain_uid=facts.session_id,
        fingerprint=_hash(line.leaf_hash),
        prev_event=before,
        authority_uid=facts.key_id or UNSET,
    )
    profiles = [*event.metadata.profiles, INTEGRITY]
    metadata = msgspec.structs.replace(event.metadata, version=INTEGRITY_VERSION, profiles=profiles)
    return msgspec.structs.replace(event, metadata=metadata, attestation=attestation)


def product_of(facts: SessionFacts) -> Product:
    """Return this program, in the version that wrote a session."""
    return Product(name=PRODUCT, vendor_name=PRODUCT, version=facts.version or UNSET)


def _hash(value: str) -> Fingerprint:
    return Fingerprint(value=value, encoding_id=1, serialization_id=OTHER)


def device_of(facts: SessionFacts) -> Device:
    """Return the machine of a session."""
    if is_hostname(facts.host):
        return Device(hostname=facts.host)
    return Device(name=facts.host or "unknown")


def actor_of(line: Exported, facts: SessionFacts) -> Actor:
    """Return who acted: the program that held the connection, or else the session's command."""
    programs = line.programs if isinstance(line, RecordLine) else ()
    process = process_of(programs) or command_of(facts)
    user: User | UnsetType = UNSET
    if facts.user or facts.user_id is not None:
        uid = UNSET if facts.user_id is None else str(facts.user_id)
        user = User(name=facts.user or UNSET, uid=uid)
    return Actor(process=process, user=user)


def command_of(facts: SessionFacts) -> Process:
    """Return the command of a session; its id is the session's."""
    name = program_name(facts.command[0]) if facts.command else UNSET
    return Process(uid=facts.session_id, name=name)


def process_of(programs: Sequence[ProcessLine]) -> Process | None:
    """Return the first program that was found with the connection open; None if none was."""
    program = first_found(programs)
    if program is None or program.pid is None:
        return None
    file: File | UnsetType = UNSET
    if program.exe:
        hashes = [Fingerprint(value=program.exe_sha256)] if program.exe_sha256 else UNSET
        name = program_name(program.exe)
        file = File(name=name, type_id=1, path=program.exe, hashes=hashes)
    return Process(
        pid=bounded(program.pid),
        name=program_name(program.exe) if program.exe else UNSET,
        cmd_line=" ".join(program.argv) if program.argv else UNSET,
        file=file,
    )


def endpoint_of(target: str, port: int | None, address: str | None = None) -> Endpoint:
    """Return the end of a connection at a host; a malformed request may name none."""
    number = UNSET if port is None else port
    literal = target if parse_address(target) is not None else None
    dialled = address if address is not None and parse_address(address) is not None else None
    found = dialled or literal
    ip = UNSET if found is None or "%" in found else found
    if literal is None and is_hostname(target):
        return Endpoint(hostname=target, ip=ip, port=number)
    if literal is not None and ip is not UNSET:
        return Endpoint(ip=ip, port=number)
    return Endpoint(name=target or "unknown", ip=ip, port=number)
