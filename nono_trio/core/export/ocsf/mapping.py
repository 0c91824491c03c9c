"""The format `ocsf`: one event a line of a session, and one more for a leaked credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from nono_trio.core.export.exported import (
    FaultLine,
    FlowLine,
    bounded,
    event_id,
    is_exfiltration,
    kind_of,
    unix_ms_of,
)
from nono_trio.core.export.ocsf import common, network
from nono_trio.core.export.ocsf.objects import (
    Actor,
    Analytic,
    Evidence,
    File,
    FindingInfo,
    Process,
)
from nono_trio.core.log.events import Network, SandboxRuntime, SessionEnded, SessionStarted
from nono_trio.core.log.file_events import denied_entry
from nono_trio.core.log.nono_events import CapabilityDecision, CapabilityRequest
from nono_trio.core.log.notices import is_binding, lost_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.export.exported import Exported, RecordLine, SessionFacts
    from nono_trio.core.export.ocsf.objects import Event
    from nono_trio.core.log.events import NetworkEvent

START, STOP = 3, 4
CREATE: Final = 1  # of a file or a finding
OPEN_FILE: Final = 14

_encoder = msgspec.json.Encoder()


def encode(line: Exported, facts: SessionFacts, *, integrity: bool = False) -> bytes:
    """Return the events of a line, each with its newline."""
    return b"".join(_encoder.encode(event) + b"\n" for event in events(line, facts, integrity))


def events(line: Exported, facts: SessionFacts, integrity: bool = False) -> Iterator[Event]:
    """Yield the events of a line; `integrity`: with the profile record_integrity of OCSF 1.9."""
    if isinstance(line, FlowLine):
        yield network.flow_event(line, facts)
        return
    if isinstance(line, FaultLine):
        yield _fault(line, facts)
        return
    event = _record_event(line, facts)
    yield common.attested(event, line, facts) if integrity else event
    if isinstance(line.event, Network) and is_exfiltration(line.event.event):
        yield _finding(line, line.event.event, facts)


def _record_event(line: RecordLine, facts: SessionFacts) -> Event:
    event = line.event
    if not isinstance(event, Network):
        return _other_event(line, facts)
    kind = kind_of(line)
    if kind == "notice":
        return _notice_event(line, event.event, facts)
    if kind == "lookup":
        return network.lookup_event(line, event.event, facts)
    return network.decision_event(line, event.event, facts)


def _notice_event(line: RecordLine, event: NetworkEvent, facts: SessionFacts) -> Event:
    """Return the event of a record about the log itself."""
    severity = common.HIGH if lost_events(event) else common.LOW
    severity = common.INFORMATIONAL if is_binding(event) else severity
    text = event.reason or event.target
    return _lifecycle(line, facts, common.OTHER, severity, activity_name="Log", message=text)


def _other_event(line: RecordLine, facts: SessionFacts) -> Event:
    """Return the event of a record that is about no network decision."""
    event = line.event
    if isinstance(event, SessionStarted):
        actor = common.actor_of(line, facts)  # the one event with the whole command line
        whole = msgspec.structs.replace(actor.process, cmd_line=" ".join(event.command))
        return _lifecycle(
            line, facts, START, common.INFORMATIONAL,
            actor=msgspec.structs.replace(actor, process=whole),
        )  # fmt: skip
    if isinstance(event, SessionEnded):
        return _lifecycle(
            line, facts, STOP, common.INFORMATIONAL,
            status_id=common.SUCCESS if event.exit_code == 0 else common.FAILURE,
            status_code=str(event.exit_code), message=f"exit code {event.exit_code}",
        )  # fmt: skip
    if isinstance(event, SandboxRuntime):
        return _lifecycle(
            line, facts, common.OTHER, common.INFORMATIONAL,
            activity_name="Cage", message=f"isolation {facts.isolation or 'unknown'}",
        )  # fmt: skip
    if isinstance(event, CapabilityDecision) and denied_entry(event) is not None:
        return _file_event(line, event, facts)
    return common.make_event(
        line, facts, common.BASE_EVENT, common.OTHER, common.INFORMATIONAL,
        activity_name=kind_of(line),
    )  # fmt: skip


def _lifecycle(
    line: RecordLine, facts: SessionFacts, activity: int, severity: int, **fields: object
) -> Event:
    return common.make_event(
        line, facts, common.APPLICATION_LIFECYCLE, activity, severity,
        app=common.product_of(facts), **fields,
    )  # fmt: skip


def _file_event(line: RecordLine, event: CapabilityDecision, facts: SessionFacts) -> Event:
    request, entry = event.entry.request, denied_entry(event)
    assert isinstance(request, CapabilityRequest)
    assert entry is not None
    fields: dict[str, object] = {}
    if request.child_pid:
        command = common.command_of(facts)
        process = Process(pid=request.child_pid, uid=command.uid)
        fields["actor"] = Actor(process=process, user=common.actor_of(line, facts).user)
    name = entry.path.rstrip("/").rpartition("/")[2] or entry.path
    return common.make_event(
        line, facts, common.FILE_ACTIVITY, CREATE if entry.access == "Write" else OPEN_FILE,
        common.LOW, file=File(name=name, type_id=0, path=entry.path),
        action_id=network.DENIED, disposition_id=network.BLOCKED, status_id=common.FAILURE,
        status_detail=entry.reason, **fields,
    )  # fmt: skip


def _fault(line: FaultLine, facts: SessionFacts) -> Event:
    """Return the finding that a session's files were changed, or removed too early."""
    is_tampered = line.kind == "tampered"
    title = "Audit log tampered with" if is_tampered else "Audit log removed before it was sent"
    return common.make_event(
        line, facts, common.DETECTION_FINDING, CREATE,
        common.CRITICAL if is_tampered else common.MEDIUM,
        action_id=0, status_id=1, message=line.message,
        finding_info=FindingInfo(
            uid=event_id(facts.session_id, line), title=title, desc=line.message
        ),
    )  # fmt: skip


def _finding(line: RecordLine, event: NetworkEvent, facts: SessionFacts) -> Event:
    """Return the finding about a request with the stand-in of a credential in it."""
    uid = f"{event_id(facts.session_id, line)}/finding"
    found = common.make_event(
        line, facts, common.DETECTION_FINDING, CREATE, common.CRITICAL,
        action_id=network.DENIED, disposition_id=network.BLOCKED, status_id=1,
        message=event.reason or UNSET,
        finding_info=FindingInfo(
            uid=uid,
            title="Credential sent to a host that it is not for",
            desc=event.reason or UNSET,
            created_time=bounded(unix_ms_of(line, facts)),
            analytic=Analytic(name="stand-in of a credential"),
        ),
        evidences=[
            Evidence(
                dst_endpoint=common.endpoint_of(event.target, event.port),
                process=common.actor_of(line, facts).process,
            )
        ],
    )  # fmt: skip
    metadata = msgspec.structs.replace(found.metadata, uid=uid, event_code="finding")
    return msgspec.structs.replace(found, metadata=metadata, raw_data=UNSET)
