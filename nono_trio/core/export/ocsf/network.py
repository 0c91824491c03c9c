"""Decisions, look-ups and flows as OCSF: Network Activity, HTTP Activity, DNS Activity.

Rules of this file:
- HTTP Activity needs the status of the answer (OCSF 1.3). A refused request has ours. An allowed
  one has no status before it is answered, so its decision is Network Activity with the URL, and
  its flow is HTTP Activity.
- OCSF has nine methods; another one is the name of the activity.
- Values of a query are redacted again: a log may be of a program that did not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from nono_trio.core.export.exported import bounded, is_exfiltration, refusal_of
from nono_trio.core.export.ocsf import common
from nono_trio.core.export.ocsf.objects import (
    ConnectionInfo,
    DnsQuery,
    Endpoint,
    FirewallRule,
    HttpRequest,
    HttpResponse,
    Traffic,
    Url,
    is_hostname,
)
from nono_trio.core.log.notices import NO_TOKEN
from nono_trio.core.log.redaction import redact_path
from nono_trio.core.policy.outcome import read_reason
from nono_trio.core.policy.reasons import DenialCode
from nono_trio.core.policy.request_note import parse_note

if TYPE_CHECKING:
    from nono_trio.core.export.exported import FlowLine, RecordLine, SessionFacts
    from nono_trio.core.export.ocsf.objects import Event
    from nono_trio.core.log.events import ClosedBy, NetworkEvent

OPEN, CLOSE, RESET, FAIL, REFUSE = 1, 2, 3, 4, 5
QUERY: Final = 1
ALLOWED, DENIED = 1, 2
# Dispositions.
LET_THROUGH, BLOCKED, DELAYED, LOGGED, UNAUTHORIZED, ERROR = 1, 2, 14, 17, 26, 27

FORBIDDEN: Final = 403
PROXY_AUTHENTICATION: Final = 407
_METHODS: Final = {
    "CONNECT": 1, "DELETE": 2, "GET": 3, "HEAD": 4, "OPTIONS": 5, "POST": 6, "PUT": 7, "TRACE": 8,
    "PATCH": 9,  # from OCSF 1.6 on
}  # fmt: skip
_UDP: Final = frozenset({DenialCode.DATAGRAM, DenialCode.DATAGRAM_TO_ALLOWED})
_CLOSED: Final[dict[ClosedBy, int]] = {"error": RESET}
_FACTS: Final = (
    "mode", "decision", "route_id", "auth_mechanism", "auth_outcome", "managed_credential_active",
    "injection_mode", "denial_category", "endpoint_policy_action", "approval_backend",
    "credential_capture_action", "credential_capture_name",
)  # fmt: skip


def decision_event(line: RecordLine, event: NetworkEvent, facts: SessionFacts) -> Event:
    """Return the event of a decision about a connection or a request."""
    outcome, refused = refusal_of(event), event.decision == "deny"
    url, fields = _url(event), _judged(event)
    fields |= {
        "dst_endpoint": common.endpoint_of(event.target, event.port),
        "connection_info": _connection(event),
    }
    if event.upstream is not UNSET:
        fields["proxy_endpoint"] = _upstream(event.upstream)
    if refused and url is not None:
        status = PROXY_AUTHENTICATION if event.denial_category == NO_TOKEN else FORBIDDEN
        fields |= _http(event, url, HttpResponse(code=event.status or status))
        return common.make_event(
            line, facts, common.HTTP_ACTIVITY, method_activity(event.method), _severity(event),
            **fields,
        )  # fmt: skip
    if url is not None:
        fields["url"] = url
    activity = OPEN if not refused else FAIL if outcome == "failed" else REFUSE
    return common.make_event(
        line, facts, common.NETWORK_ACTIVITY, activity, _severity(event), **fields
    )


def lookup_event(line: RecordLine, event: NetworkEvent, facts: SessionFacts) -> Event:
    """Return the event of a decision about a look-up of a name."""
    host = event.target if is_hostname(event.target) else "invalid"
    return common.make_event(
        line, facts, common.DNS_ACTIVITY, QUERY, _severity(event),
        query=DnsQuery(hostname=host), dst_endpoint=Endpoint(svc_name="nono-trio", port=53),
        **_judged(event),
    )  # fmt: skip


def flow_event(line: FlowLine, facts: SessionFacts) -> Event:
    """Return the event of the end of a connection, or of an answered request."""
    flow, decision = line.flow, line.decision
    up, down = bounded(flow.bytes_up), bounded(flow.bytes_down)
    opened, duration = bounded(flow.opened_unix_ms), bounded(flow.duration_ms)
    fields: dict[str, object] = {
        "dst_endpoint": common.endpoint_of(flow.target, flow.port, flow.address),
        "connection_info": ConnectionInfo(protocol_num=6, protocol_name="tcp"),
        "traffic": Traffic(bytes=bounded(up + down), bytes_in=down, bytes_out=up),
        "start_time": opened,
        "end_time": bounded(opened + duration),
        "duration": duration,
        "action_id": ALLOWED,
        "disposition_id": LET_THROUGH,
        "status_id": common.FAILURE if flow.closed_by == "error" else common.SUCCESS,
        "status_detail": f"closed by {flow.closed_by}",
    }
    url = None if decision is None else _url(decision)
    if decision is None or url is None or isinstance(flow.status, UnsetType):
        activity = _CLOSED.get(flow.closed_by, CLOSE)
        return common.make_event(
            line, facts, common.NETWORK_ACTIVITY, activity, common.INFORMATIONAL, **fields
        )
    first = flow.first_byte_ms
    latency = UNSET if isinstance(first, UnsetType) else bounded(first)
    fields |= _http(decision, url, HttpResponse(code=flow.status, latency=latency))
    return common.make_event(
        line, facts, common.HTTP_ACTIVITY, method_activity(decision.method), common.INFORMATIONAL,
        **fields,
    )  # fmt: skip


def method_activity(method: str | None) -> int:
    """Return the activity of HTTP Activity for a method."""
    return _METHODS.get(method or "", common.OTHER)


def _http(event: NetworkEvent, url: Url, response: HttpResponse) -> dict[str, object]:
    """Return the fields of a request and its answer."""
    is_known = event.method in _METHODS
    return {
        "http_request": HttpRequest(
            http_method=event.method if is_known and event.method else UNSET, url=url
        ),
        "http_response": response,
        "activity_name": UNSET if is_known or not event.method else event.method,
    }


def _judged(event: NetworkEvent) -> dict[str, object]:
    """Return the fields about the decision itself."""
    outcome = refusal_of(event)
    fields: dict[str, object] = {"unmapped": unmapped(event)}
    if event.decision == "deny":
        failed, no_token = outcome == "failed", event.denial_category == NO_TOKEN
        fields |= {
            "action_id": DENIED,
            "disposition_id": ERROR if failed else UNAUTHORIZED if no_token else BLOCKED,
            "status_id": common.FAILURE,
            "status_code": read_reason(event.reason or "").code.name.lower(),
        }
        if event.reason:
            fields["status_detail"] = fields["message"] = event.reason
        rule = event.endpoint_policy_rule
    elif event.decision in ("allow", "approve_granted"):
        note = parse_note(event.reason)
        fields |= {
            "action_id": ALLOWED,
            "disposition_id": LOGGED if note.observed else LET_THROUGH,
            "status_id": common.SUCCESS,
        }
        rule = event.endpoint_policy_rule or note.entry or UNSET
    else:  # an approval is asked for, or was refused
        asked = event.decision == "approve_requested"
        fields |= {
            "action_id": common.OTHER if asked else DENIED,
            "disposition_id": DELAYED if asked else BLOCKED,
        }
        rule = event.endpoint_policy_rule
    if rule is not UNSET and rule:
        fields["firewall_rule"] = FirewallRule(name=rule)
    return fields


def unmapped(event: NetworkEvent) -> dict[str, str | bool]:
    """Return the facts of a decision that OCSF has no attribute for, credentials among them."""
    found = {name: getattr(event, name) for name in _FACTS}
    return {name: value for name, value in found.items() if value is not UNSET}


def _severity(event: NetworkEvent) -> int:
    if event.decision in ("allow", "approve_granted", "approve_requested"):
        return common.INFORMATIONAL
    if event.denial_category == NO_TOKEN:
        return common.INFORMATIONAL
    if is_exfiltration(event):
        return common.CRITICAL
    severities = {"failed": common.LOW, "loopback": common.LOW, "listed": common.HIGH}
    return severities.get(refusal_of(event) or "denied", common.MEDIUM)


def _url(event: NetworkEvent) -> Url | None:
    """Return the URL of a request; None where only the connection was decided."""
    if event.path is None:
        return None
    path, _, query = redact_path(event.path).partition("?")
    return Url(
        hostname=event.target if is_hostname(event.target) else UNSET,
        port=UNSET if event.port is None else event.port,
        path=path or "/",
        query_string=query or UNSET,
    )


def _connection(event: NetworkEvent) -> ConnectionInfo:
    is_udp = event.decision == "deny" and read_reason(event.reason or "").code in _UDP
    if is_udp:
        return ConnectionInfo(protocol_num=17, protocol_name="udp")
    return ConnectionInfo(protocol_num=6, protocol_name="tcp")


def _upstream(upstream: str) -> Endpoint:
    host, colon, port = upstream.rpartition(":")
    is_port = bool(colon) and port.isascii() and port.isdigit() and len(port) <= 5
    return common.endpoint_of(host if is_port else upstream, int(port) if is_port else None)
