"""How `audit verify` and `audit show` look; what they say was found elsewhere.

Rules of this file: plain text that reads the same without colour and in a pipe; everything that
comes from a log or a session file goes through `clean`. A terminal gets panels of the same facts
(show_panels.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.audit.stored_session import parse_time
from nono_trio.audit.verify.no_session import UNFINISHED_IMPORT
from nono_trio.cli.pasted import pasteable
from nono_trio.cli.session_rows import (
    NOT_BOUND,
    TAMPERED,
    bounded_list,
    fault_rows,
    file_text,
    policy_rows,
)
from nono_trio.cli.text import (
    all_numbers_text,
    clean,
    command_text,
    counted,
    decision_line,
    denied_text,
    local_time,
    shorten,
    size_text,
    target_text,
)
from nono_trio.core.log.events import LOST_EXIT_CODE, Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.audit.read.programs import ProgramCount
    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.read.status import Status
    from nono_trio.audit.read.summary import HostCount, Story
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.audit.verify.verdict import AttestationSeen, Verification
    from nono_trio.core.log.session_json import NonoTrioFacts, SessionSummary

LABEL_WIDTH = 13
MAX_HOST_ROWS = 20
SHOWN_ADDRESSES = 2
MAX_PROGRAM_ROWS = 20
MAX_PROGRAM_NAME = 40
SHOWN_DIGITS = 12
NO_BYTES = ("-", "-")

# -- verify ---------------------------------------------------------------------------------------


def _signature_text(seen: AttestationSeen) -> str:
    if not seen.present:
        return "none"
    if not seen.signature_verified:
        return "present, not good" if seen.signed_through is not None else "present, not checked"
    return "good, by the pinned key" if seen.pinned else "good, self-attested"


def verification_lines(answer: Verification, *, brief: bool) -> Iterator[str]:
    """One verdict; `brief` leaves out what is as it should be."""
    name = clean(answer.session_id or answer.path)
    yield f"{answer.verdict:<11} {name}  {_verdict_text(answer)}"
    if answer.first_bad is not None:
        yield from _first_bad_lines(answer)
    elif not brief and answer.verdict != "unreadable":
        yield from _proof_lines(answer)
    yield from (_row("note", pasteable(note)) for note in answer.notes)


_LIST = "`nono-trio audit list`"


def verification_hint(answer: Verification) -> str | None:
    """Return the next step for a verdict."""
    name = answer.session_id or answer.path
    if "://" in answer.path:  # on another machine; its notes say more
        return None
    if answer.verdict in ("crashed", "open", "unreadable") and os.path.isfile(answer.path):
        return None  # an archive, or another file: there is nothing here to seal or to wait for
    if answer.verdict == "crashed" and answer.session_id is not None and not answer.sealed:
        from nono_trio.audit.recovery.recover_command import recover_command  # late: rare

        return f"`{recover_command(Path(answer.path))}` seals it"
    if answer.verdict == "open":
        return f"verify it again when it has ended; `nono-trio audit tail -f {name}` shows it live"
    if answer.verdict == "unreadable" and any("--upstream" in note for note in answer.notes):
        return f"nono-trio audit verify --upstream {name}"
    if answer.verdict == "unreadable" and not any(_LIST in note for note in answer.notes):
        return f"{_LIST} shows what is there"
    if answer.verdict == "missing" and any(UNFINISHED_IMPORT in note for note in answer.notes):
        return "import its archive again, or in a minute: nono-trio audit recover --all"
    if answer.verdict == "missing":
        return f"`nono-trio audit forget {name}` records that it was removed on purpose"
    return None


def _verdict_text(answer: Verification) -> str:
    records = counted(answer.event_count, "record")
    if answer.verdict == "unreadable":
        return "can't be judged"
    if answer.verdict == "missing":
        return "sealed once, and gone"
    if answer.verdict == "verified" and not answer.sealed:
        return f"{counted(answer.event_count, 'line')} of a ledger"
    if answer.verdict in ("verified", "consistent", "undamaged"):
        return f"{records}, sealed"
    if answer.verdict == "open":
        return f"{records} so far, running"
    if answer.verdict == "crashed":
        return f"{records}, sealed without the key" if answer.sealed else f"{records}, never sealed"
    return f"good up to sequence {answer.event_count - 1}" if answer.event_count else "none good"


def _first_bad_lines(answer: Verification) -> Iterator[str]:
    bad = answer.first_bad
    if bad is None:
        return
    yield _row("what", bad.failure)
    places = [
        f"{what} {where}"
        for what, where in (("line", bad.line), ("byte", bad.offset), ("sequence", bad.sequence))
        if where is not None
    ]
    yield _row("where", ", ".join(places) or "beside the log")
    yield _row("expected", bad.expected)
    yield _row("got", bad.got)


def _proof_lines(answer: Verification) -> Iterator[str]:
    yield _row("chain head", answer.chain_head or "none")
    if answer.merkle_root is None:  # of --since, which computes no root and checks no signature
        return
    yield _row("Merkle root", answer.merkle_root or "none")
    seen = answer.checkpoints
    if seen.matches is not None:
        last = "none" if seen.last_sequence is None else f"sequence {seen.last_sequence}"
        yield _row("checkpoints", f"{seen.count}, the last at {last}, all match")
    if answer.ledger.found:
        chain = "the chain holds" if answer.ledger.chain_verified else "other lines are damaged"
        if answer.ledger.chain_verified is None:
            chain = "it came with the archive"
        yield _row("ledger", f"its line matches, {chain}")
    yield _row("signature", _signature_text(answer.attestation))


# -- show -----------------------------------------------------------------------------------------


def proof_text(session: StoredSession) -> str:
    """Return the text about the proof of a session that is shown."""
    if session.proved:
        return "verified: its log, its files and its line in the ledger"
    word = "tampered" if session.fault is not None else "not verified"
    return f"{word}: `nono-trio audit verify {session.session_id}`"


def show_lines(session: StoredSession, status: Status, story: Story) -> Iterator[str]:
    """The lines of `audit show`: command, cage, hosts, and the ends of the timeline."""
    for label, text in (
        *session_rows(session, status, story),
        *cage_rows(session, story),
        *policy_rows(session),
        *result_rows(session, status, story),
        ("proof", proof_text(session)),
    ):
        yield _row(label, text)
    if story.files:
        yield _row("files", file_text([*story.files]))
    if story.hosts:
        yield ""
        yield from _host_lines(session, story)
        if story.programs:
            yield ""
            yield from _program_lines(story.programs)
        yield ""
        yield from _timeline_lines(story)


def result_rows(session: StoredSession, status: Status, story: Story) -> Iterator[tuple[str, str]]:
    """The numbers of a session: its attempts, its bytes."""
    unbound = "" if status == "sealed" else NOT_BOUND
    yield "network", f"{all_numbers_text(story.attempts)}{unbound}"
    yield (
        "bytes",
        f"{size_text(story.bytes_up)} up, {size_text(story.bytes_down)} down"
        f" in {counted(story.connections, 'connection')}{_lost_flows(session)}{unbound}",
    )


def _lost_flows(session: StoredSession) -> str:
    lost = session.facts.lost_flows
    if not isinstance(lost, int) or not lost:
        return ""
    return f"; of {counted(lost, 'connection')} more the lines were lost"


def session_rows(session: StoredSession, status: Status, story: Story) -> Iterator[tuple[str, str]]:
    """The rows about a session: what ran, when, and how it ended. Control characters are still in
    them, as in all rows."""
    name = f"  (name {clean(session.name)})" if session.name else ""
    yield "session", f"{session.session_id}{name}"
    ended = _end_text(session, story)
    yield "status", TAMPERED if status == "tampered" else f"{status}{ended}"
    yield from fault_rows(session)
    summary = session.summary
    if summary is not None:
        yield "command", command_text(summary.command)
        yield "started", f"{local_time(session.started)}{_duration(summary)}"
    if session.imported is not None:
        yield "imported", f"{session.imported}, from {_origin(session)}"
    yield "records", f"{story.events:,} in {session.directory}"


def _origin(session: StoredSession) -> str:
    """Return the machine of an imported session, as its policy names it."""
    origin = None if session.policy is None else session.policy.origin
    return origin.host if origin is not None and origin.host else "another machine"


def _end_text(session: StoredSession, story: Story) -> str:
    """Return how the command ended; nothing binds a last record before the seal."""
    if story.ended is None or not session.sealed:
        return ""
    if story.ended.exit_code == LOST_EXIT_CODE:
        return " by `audit recover`: the supervisor was lost, the exit code is not known"
    code, own = story.ended.exit_code, session.facts.run_exit_code
    if not isinstance(own, int) or own == code:
        return f", exit code {code}"
    return f", exit code {own} ({_verdict_flag(session)}; the command's own was {code})"


def _verdict_flag(session: StoredSession) -> str:
    """The flag that made a run fail whose command succeeded."""
    judging = session.policy.judging if session.policy is not None else None
    if judging is None or judging.fail_on is None:
        return "--fail-on-path"
    return "--fail-on all" if judging.fail_on == "all" else "--fail-on-deny"


def _duration(summary: SessionSummary) -> str:
    started, ended = parse_time(summary.started), parse_time(summary.ended or "")
    if started is None or ended is None:
        return ""
    return f", ran {(ended - started).total_seconds():.1f} s"


def cage_rows(session: StoredSession, story: Story) -> Iterator[tuple[str, str]]:
    """The rows about the cage and its isolation."""
    summary = session.summary
    if summary is not None and summary.is_ours:
        facts = summary.facts
        enforcement = facts.enforcement if isinstance(facts.enforcement, list) else []
        yield "isolation", str(facts.isolation or "not recorded")
        yield from (("cage", line) for line in enforcement)
        yield "audit", _audit_text(facts)
    if story.sandbox is not None:
        landlock = story.sandbox.landlock_abi or "none"
        yield "recorded", f"{story.sandbox.platform}, Landlock {landlock} (in the log)"
    if summary is not None and summary.tracked_paths and session.policy is None:
        yield "granted", bounded_list(summary.tracked_paths)


def _audit_text(facts: NonoTrioFacts) -> str:
    text = f"{facts.audit_mode or 'mode not recorded'}, sync {facts.audit_sync or 'not recorded'}"
    return f"{text}, {counted(facts.lost_total, 'event')} lost" if facts.lost_total else text


def _host_lines(session: StoredSession, story: Story) -> Iterator[str]:
    rows = [*host_rows(session, story)]
    shown = rows[:MAX_HOST_ROWS]
    width = max((len(name) for _, name, *_ in shown), default=0)
    yield f"{'DECISION':<9} {'HOST':<{width}}  {'REQUESTS':>8}  {'UP':>9}  {'DOWN':>9}  ADDRESS"
    for decision, name, requests, up, down, address in shown:
        moved = f"{up:>9}  {down:>9}"
        yield f"{decision:<9} {name:<{width}}  {requests:>8}  {moved}  {address}".rstrip()
    if len(rows) > len(shown):
        yield f"... and {counted(len(rows) - len(shown), 'host')} more (all with --json)"


def _program_lines(programs: Sequence[ProgramCount]) -> Iterator[str]:
    """One row a program: those with denials first."""
    shown = programs[:MAX_PROGRAM_ROWS]
    names = [shorten(clean(program.name), MAX_PROGRAM_NAME) for program in shown]
    width = max(len("PROGRAM"), *map(len, names))
    columns = f"{'DENIED':>6}  {'FAILED':>6}  {'ALLOWED':>7}  {'PIDS':>4}  {'SHA-256':<12}  FILE"
    yield f"{'PROGRAM':<{width}}  {columns}"
    for name, one in zip(names, shown, strict=True):
        digest = (one.sha256 or "-")[:SHOWN_DIGITS]
        counts = f"{one.denied:>6,}  {one.failed:>6,}  {one.allowed:>7,}"
        file = f"{one.processes or '-':>4}  {digest:<12}  {clean(one.exe or '-')}"
        yield f"{name:<{width}}  {counts}  {file}"
    if len(programs) > len(shown):
        yield f"... and {counted(len(programs) - len(shown), 'program')} more (all with --json)"


def host_rows(session: StoredSession, story: Story) -> Iterator[tuple[str, ...]]:
    """Decision, host, requests, bytes up and down, addresses.

    Denials first, one row a host: a program that looked a name up and then tried three ports
    wanted one thing. What was allowed has a row a port, for the bytes and the addresses."""
    attempts = story.attempts
    for outcome, hosts in (("deny", attempts.denied_hosts), ("fail", attempts.failed_hosts)):
        for denied in sorted(hosts.values(), key=lambda host: (-host.requests, host.target)):
            yield outcome, denied_text(denied), f"{denied.requests:,}", *NO_BYTES, ""
    for host in story.hosts_by_weight():
        requests = story.allowed_requests(host) if host.decision == "allow" else host.requests
        if host.decision != "deny" and requests:
            moved = (size_text(host.bytes_up), size_text(host.bytes_down))
            yield (
                host.decision,
                target_text(host.target, host.port),
                f"{requests:,}",
                *(moved if host.decision == "allow" else NO_BYTES),
                _addresses(session, host),
            )


def _addresses(session: StoredSession, host: HostCount) -> str:
    """The addresses that were dialled for a host; one that a pin chose is marked."""
    if not host.addresses:
        return ""
    shown = ", ".join(clean(one) for one in [*host.addresses][:SHOWN_ADDRESSES])
    more = len(host.addresses) - SHOWN_ADDRESSES
    shown += f" and {more} more" if more > 0 else ""
    policy = session.policy
    if policy is None or host.port is None:
        return shown
    return f"{shown} (pin)" if policy.network.is_pinned(host.target, host.port) else shown


def _timeline_lines(story: Story) -> Iterator[str]:
    yield from _decision_lines(story.first)
    if story.between:
        between = counted(story.between, "decision")
        yield f"... {between} between (`nono-trio audit tail -n N` has them)"
    yield from _decision_lines(story.last)


def _decision_lines(records: Iterable[LogRecord]) -> Iterator[str]:
    for record in records:
        if isinstance(record.event, Network):
            yield decision_line(record.event.event)


def _row(label: str, text: str) -> str:
    return f"  {label:<{LABEL_WIDTH}}{clean(text)}"
