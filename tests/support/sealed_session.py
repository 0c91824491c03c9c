"""A whole session on disk, made with the encoders only and not by the writer under test.

`build` writes policy, log, checkpoints, flows, summary, session.json and the ledger line in their
exact formats. `unsealed` writes the same session as a crash leaves it. Callers give the payloads
without the two records that bind files; `bound_payloads` adds these.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from typing import TYPE_CHECKING

import msgspec
import xxhash

from nono_trio.audit import store
from nono_trio.audit.write import ledger_append
from nono_trio.core.log import events
from nono_trio.core.log.merkle import merkle_root
from nono_trio.core.log.notices import POLICY_TARGET, SUMMARY_TARGET, Tally, binding_record
from nono_trio.core.log.policy_json import (
    FilePolicy,
    GrantedPath,
    SessionOrigin,
    SessionPolicy,
    SupervisorProcess,
    encode_policy,
)
from nono_trio.core.log.record import encode_record
from nono_trio.core.log.session_json import (
    AuditIntegrity,
    Checkpoint,
    NonoTrioFacts,
    SessionMetadata,
    completed_at,
    encode_checkpoint,
    session_digest,
)
from nono_trio.core.log.summary_json import SealSummary, digest_of, encode_summary
from nono_trio.core.policy.attempts import AttemptTally
from nono_trio.posix import process_info

if TYPE_CHECKING:
    from pathlib import Path

STARTED = "2026-07-02T12:03:04.000000Z"
ENDED = "2026-07-02T12:03:09.000000Z"
COMMAND = ["agent", "--token", "[REDACTED]"]
NOON_UNIX_MS = 1_782_993_784_123  # 2026-07-02T12:03:04.123Z


FACTS = {
    "version": "0.1.0",
    "supervisor_pid": 2**22 + 1,  # never a pid
    "supervisor_start_ticks": 1,
    "boot_id": "an-earlier-boot",
    "isolation": "namespace",
    "enforcement": ["landlock V6", "network namespace"],
    "audit_mode": "strict",
    "audit_sync": "interval",
    "working_directory": "/home/a/project",
}


def network(number=0, decision="deny", target="evil.test", **fields):
    event = {"mode": "connect", "port": 443, "method": "CONNECT"} | fields
    if decision == "deny" and "reason" not in event:
        event["reason"] = f"host {target} is not on the allowlist"
        event["denial_category"] = "host_denied"
    return events.Network(
        event=events.NetworkEvent(
            timestamp_unix_ms=NOON_UNIX_MS + number, decision=decision, target=target, **event
        )
    )


def sandbox_runtime():
    return events.SandboxRuntime(
        event=events.SandboxRuntimeEvent(
            timestamp=STARTED, platform="linux", landlock_abi="V6", tool_sandbox_active=True
        )
    )


def started():
    return events.SessionStarted(started=STARTED, command=COMMAND)


def ended(exit_code=0):
    return events.SessionEnded(ended=ENDED, exit_code=exit_code)


def flow(sequence, up=100, down=2000, target="example.com"):
    return events.Flow(
        sequence=sequence,
        target=target,
        port=443,
        address="192.0.2.1",
        opened_unix_ms=NOON_UNIX_MS,
        duration_ms=80,
        bytes_up=up,
        bytes_down=down,
        closed_by="client",
    )


SMALL = (
    started(),
    sandbox_runtime(),
    network(1, "allow", "example.com"),
    network(2, "deny", "evil.test"),
    ended(),
)


def encode_log(payloads):
    """Return (lines, leaves, chains) of a log."""
    lines, leaves, chains, prev = [], [], [], None
    for sequence, payload in enumerate(payloads):
        line, leaf, prev = encode_record(sequence, prev, events.encode_payload(payload))
        lines.append(line)
        leaves.append(leaf)
        chains.append(prev)
    return lines, leaves, chains


def checkpoint_lines(lines, leaves, chains, counts, *, final, flows=b"", lost=0):
    """A checkpoint after each of `counts` records; the last is the final one if `final`."""
    encoded, before = [], 0
    for place, count in enumerate(counts):
        is_last = final and place == len(counts) - 1
        segment = b"".join(lines[before:count])
        checkpoint = Checkpoint(
            time=STARTED,
            event_count=count,
            offset=sum(map(len, lines[:count])),
            chain_head=chains[count - 1].hex() if count else None,
            merkle_root=merkle_root(leaves[:count]).hex(),
            lost_total=lost,
            segment_xxh3=xxhash.xxh3_64_hexdigest(segment),
            final=is_last,
            flows_sha256=hashlib.sha256(flows).hexdigest() if is_last else msgspec.UNSET,
        )
        encoded.append(encode_checkpoint(checkpoint))
        before = count
    return encoded


def policy(session_id, *, name=None, **facts):
    """The policy whose short form FACTS is."""
    facts = FACTS | facts
    grant = GrantedPath(
        path="/home/a/project", access="readwrite", is_file=False, source="--allow", asked_for=True
    )
    return SessionPolicy(
        session_id=session_id,
        name=name,
        working_directory=facts["working_directory"],
        isolation=facts["isolation"],
        enforcement=facts["enforcement"],
        files=FilePolicy(grants=[grant]),
        audit_mode=facts["audit_mode"],
        audit_sync=facts["audit_sync"],
        origin=SessionOrigin(nono_trio=facts["version"]),
        supervisor=SupervisorProcess(
            pid=facts["supervisor_pid"],
            start_ticks=facts["supervisor_start_ticks"],
            boot_id=facts["boot_id"],
        ),
    )


def counted(payloads, **facts):
    """FACTS of a sealed session, with the counts of its log unless `facts` has others."""
    tally = Tally()
    tally.add_all(payloads)
    attempts = AttemptTally()
    attempts.add_all(payloads)
    totals = {
        "allowed_total": tally.allowed,
        "denied_total": tally.denied,
        "attempts": attempts.totals,
    }
    return FACTS | totals | {"lost_total": tally.lost} | facts


def summary(payloads, *, flows=b"", checkpoints=b"", name=None, recovered=False, **facts):
    """The summary of a log that ends with its own record and `session_ended`."""
    return SealSummary(
        recovered=recovered,
        event_count=len(payloads) + 1,  # `payloads` lacks its own record
        flows=digest_of(flows),
        processes=digest_of(b""),
        checkpoints=digest_of(checkpoints),
        facts=NonoTrioFacts(**(counted(payloads, **facts) | {"name": name})),
    )


def bound_payloads(payloads, policy_text):
    """`payloads` with the record that binds the policy as the second one."""
    if not payloads:
        return []
    return [payloads[0], binding_record(POLICY_TARGET, policy_text, NOON_UNIX_MS), *payloads[1:]]


def metadata(session_id, payloads, lines, leaves, chains, *, status, name=None, **facts):
    sealed = status != "open"
    facts = counted(payloads, **facts) if sealed else FACTS | facts
    network_events = [p.event for p in payloads if isinstance(p, events.Network)][:4096]
    return SessionMetadata(
        session_id=session_id,
        started=STARTED,
        ended=ENDED if sealed else None,
        command=COMMAND,
        tracked_paths=["/home/a/project"],
        exit_code=payloads[-1].exit_code if sealed else None,
        merkle_roots=[],
        network_events=network_events if sealed else [],
        audit_event_count=len(lines) if sealed else 0,
        audit_integrity=AuditIntegrity(
            event_count=len(lines),
            chain_head=chains[-1].hex(),
            merkle_root=merkle_root(leaves).hex(),
        )
        if sealed
        else None,
        nono_trio=NonoTrioFacts(**(facts | {"name": name, "status": status})),
    )


def build(
    audit_root: Path,
    session_id: str = "0123456789abcdef",
    payloads=SMALL,
    counts=(3, 5),
    *,
    flows=(),
    name=None,
    in_ledger=True,
    **facts,
) -> Path:
    """Make a sealed session; return its directory. `counts` are places in the bound log."""
    directory = store.create_session_directory(audit_root, session_id)
    flow_lines = b"".join(map(events.encode_flow, flows))
    policy_text = encode_policy(policy(session_id, name=name, **_known_before(facts)))
    begun = bound_payloads(payloads, policy_text)
    counts = [count for count in counts if count < len(begun)]
    lost = facts.get("lost_total", counted(begun)["lost_total"])
    marks = checkpoint_lines(*encode_log(begun), counts, final=False, lost=0)
    summary_text = encode_summary(
        summary(begun, flows=flow_lines, checkpoints=b"".join(marks), name=name, **facts)
    )
    payloads = [*begun[:-1], binding_record(SUMMARY_TARGET, summary_text, NOON_UNIX_MS), begun[-1]]
    lines, leaves, chains = encode_log(payloads)
    marks += checkpoint_lines(
        lines, leaves, chains, [*counts, len(lines)], final=True, flows=flow_lines, lost=lost
    )[-1:]
    (directory / store.POLICY).write_bytes(policy_text)
    (directory / store.SUMMARY).write_bytes(summary_text)
    (directory / store.LOG).write_bytes(b"".join(lines))
    (directory / store.FLOWS).write_bytes(flow_lines)
    (directory / store.CHECKPOINTS).write_bytes(b"".join(marks))
    sealed = metadata(
        session_id, payloads, lines, leaves, chains, status="sealed", name=name, **facts
    )
    if in_ledger:
        ledger_append.append(audit_root, session_id, session_digest(sealed), completed_at(sealed))
    store.write_session_json(directory, sealed)
    return directory


def unsealed(
    audit_root: Path,
    session_id: str = "0123456789abcdef",
    payloads=SMALL[:-1],
    counts=(3,),
    *,
    name=None,
    lost=0,
    **facts,
) -> Path:
    """Make a session without a seal; its supervisor has ended unless `facts` say otherwise."""
    directory = store.create_session_directory(audit_root, session_id)
    policy_text = encode_policy(policy(session_id, name=name, **facts))
    payloads = bound_payloads(payloads, policy_text)
    marks = checkpoint_lines(*encode_log(payloads), counts, final=False, lost=lost)
    if payloads and isinstance(payloads[-1], events.SessionEnded):
        summary_text = encode_summary(
            summary(payloads, checkpoints=b"".join(marks), name=name, **facts)
        )
        payloads.insert(-1, binding_record(SUMMARY_TARGET, summary_text, NOON_UNIX_MS))
        (directory / store.SUMMARY).write_bytes(summary_text)
    lines, leaves, chains = encode_log(payloads)
    (directory / store.POLICY).write_bytes(policy_text)
    (directory / store.LOG).write_bytes(b"".join(lines))
    (directory / store.FLOWS).write_bytes(b"")
    (directory / store.CHECKPOINTS).write_bytes(b"".join(marks))
    opened = metadata(
        session_id, payloads, lines, leaves, chains, status="open", name=name, **facts
    )
    store.write_session_json(directory, opened)
    return directory


def _known_before(facts):
    """`facts` without those that are counted from the log."""
    return {key: value for key, value in facts.items() if key in FACTS}


def payloads_of(directory):
    """All payloads of a log, including those that bind files."""
    lines = log_of(directory).read_bytes().splitlines()
    return [events.decode_payload(json.loads(line)["event_json"].encode()) for line in lines]


def log_of(directory: Path) -> Path:
    return directory / store.LOG


_held = []  # locks of sessions that this process supervises


def running(audit_root: Path, *arguments, **facts) -> Path:
    """Like `unsealed`, but this process is its supervisor: it holds the lock on the log too."""
    directory = unsealed(audit_root, *arguments, **(facts | alive_facts()))
    _held.append(log_of(directory).open("rb"))
    fcntl.flock(_held[-1], fcntl.LOCK_EX)
    return directory


def let_go():
    """Release the locks of `running`, like a supervisor that ends."""
    while _held:
        _held.pop().close()


def alive_facts():
    """Facts which say that this process supervises the session."""
    return {
        "supervisor_pid": os.getpid(),
        "supervisor_start_ticks": process_info.process_start_ticks(os.getpid()),
        "boot_id": process_info.boot_id(),
    }


def change_session(directory, **changes):
    """Change fields of session.json as a forger would."""
    fields = json.loads((directory / store.SESSION).read_bytes())
    (directory / store.SESSION).write_text(json.dumps(fields | changes))


def overwrite(path, data):
    """Like write_bytes, but without truncating first, because that costs a flush each time."""
    with path.open("r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))
