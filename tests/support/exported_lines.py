"""Lines of every kind that is exported, and hostile ones."""

from __future__ import annotations

import msgspec
from sealed_session import ended, network, sandbox_runtime, started

from nono_trio.core.export.exported import FaultLine, FlowLine, RecordLine, SessionFacts
from nono_trio.core.log import events, file_events, nono_events
from nono_trio.core.log.notices import POLICY_TARGET, binding_record, gap_record
from nono_trio.core.log.processes import ProcessLine
from nono_trio.core.log.record import chain_hash, leaf_hash
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.request_note import Note, format_note

FACTS = SessionFacts(
    session_id="0123456789abcdef", name="demo", started="2026-07-02T12:03:04Z",
    command=["/usr/bin/python3", "agent.py", "--token", "[REDACTED]"],
    working_directory="/home/a/project", isolation="namespace", host="laptop", user="a",
    user_id=1000, system="linux", version="0.1.0", key_id="ab" * 32,
)  # fmt: skip
BARE = SessionFacts(session_id="upstreams-own", host="a host_name")

PROGRAM = ProcessLine(
    sequence=3, pid=17, start_time=99, exe="/usr/bin/python3.11", exe_sha256="0a" * 32,
    argv=["python3", "agent.py"], uid=1000, state="found",
)  # fmt: skip
GONE = ProcessLine(sequence=3, state="gone")
EXFILTRATION = format_reason(
    DenialCode.EXFILTRATION, detail="the field authorization", credential="github"
)


def record(payload, sequence=3, programs=()):
    text = events.encode_payload(payload)
    leaf = leaf_hash(text)
    return RecordLine(
        sequence=sequence, event=payload, event_json=text.decode(),
        prev_chain=None if sequence == 0 else "cc" * 32, leaf_hash=leaf.hex(),
        chain_hash=chain_hash(None, leaf).hex(), programs=programs,
    )  # fmt: skip


def request(decision="allow", method="GET", path="/a/b?key=[REDACTED]", **fields):
    return network(
        1, decision, fields.pop("target", "api.example.com"), mode="reverse", method=method,
        path=path, **fields,
    )  # fmt: skip


def flow(decision=None, **fields):
    plain = {
        "sequence": 3, "target": "api.example.com", "port": 443, "address": "192.0.2.1",
        "opened_unix_ms": 1_782_993_784_123, "duration_ms": 80, "bytes_up": 100,
        "bytes_down": 2000, "closed_by": "client",
    }  # fmt: skip
    event = None if decision is None else decision.event
    return FlowLine(flow=events.Flow(**(plain | fields)), decision=event)


def denied(code, target="evil.test", **values):
    reason = format_reason(code, **values)
    return network(1, "deny", target, reason=reason, denial_category="host_denied")


NOTE = format_note(Note(entry="tls://api.example.com", observed=True))
LINES = [
    record(started(), 0),
    record(binding_record(POLICY_TARGET, b"{}", 1), 1),
    record(sandbox_runtime(), 2),
    record(ended(1)),
    record(gap_record(7, "queue full", 5)),
    record(network(1, "allow", "api.example.com"), programs=[PROGRAM]),
    record(network(1, "allow", "api.example.com", reason=NOTE), programs=[GONE]),
    record(network(1, "allow", "2001:db8::1", upstream="proxy.example.com:3128")),
    record(network(1, "deny", "evil_under.test")),
    record(network(1, "deny", "")),
    record(network(1, "allow", "a.test", port=None)),
    record(network(1, "approve_requested", "a.test")),
    record(network(1, "approve_denied", "a.test", method=None)),
    record(network(1, "deny", "a.test", denial_category="authentication_failed", path="/")),
    record(network(1, "deny", "a.test", denial_category="upstream_connect_failed")),
    record(network(1, "deny", "name.test", method="DNS", port=None)),
    record(network(1, "deny", "no name.test", method="DNS", port=None)),
    record(denied(DenialCode.DATAGRAM)),
    record(denied(DenialCode.ON_DENY_LIST, destination="evil.test:443")),
    record(
        request(
            auth_mechanism="phantom_header", auth_outcome="succeeded", route_id="github",
            managed_credential_active=True, injection_mode="header",
            endpoint_policy_rule="GET https://api.example.com/**",
        ),
        programs=[PROGRAM],
    ),
    record(request("deny", "PROPFIND", "/a?b=c")),
    record(request("deny", None, "")),
    record(request("deny", "POST", "/a", reason=EXFILTRATION), programs=[PROGRAM]),
    record(
        file_events.denied_file(
            "/home/a/.ssh/id", "Read", process=17, number=1, session_id="x", unix_ns=10**18
        )
    ),
    record(file_events.more_denied_files(4, "x", 10**18)),
    record(
        nono_events.UrlOpen(
            request=nono_events.UrlOpenRequest(
                request_id="1", url="https://a.test/", child_pid=3, session_id="x"
            ),
            success=True,
        )
    ),
    FaultLine(kind="tampered", sequence=9, unix_ms=1_782_993_784_123, message="it was cut"),
    FaultLine(kind="removed", sequence=9, unix_ms=1_782_993_784_123, message="it is gone"),
    flow(),
    flow(request(), status=200, first_byte_ms=12),
    flow(request(), closed_by="error"),
    flow(network(1, "allow", "api.example.com")),
    flow(address="fe80::1%eth0", port=None),
    flow(bytes_up=2**63 - 1, bytes_down=2**63 - 1, duration_ms=2**63 - 1),
]  # fmt: skip

# The most that a log's types let through.
HUGE = msgspec.structs.replace(
    network(1, "allow", "a.test").event, timestamp_unix_ms=2**63 - 1, port=65535
)
LINES.append(record(events.Network(event=HUGE)))
