"""The words of a report: times, the verdict, how the session ended, how to check it by hand."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from nono_trio.audit.report.timeline import END_OF_TIME
from nono_trio.core.log.events import LOST_EXIT_CODE
from nono_trio.core.log.shown_text import (
    command_text,
    counted,
    duration_text,
    shorten,
    size_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.audit.report.session_report import SessionReport
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.audit.verify.verdict import AttestationSeen, Verdict, Verification

VERDICTS: Final[dict[Verdict, str]] = {
    "verified": "Every record was hashed again. The log, the files beside it and the line in the"
    " ledger fit together.",
    "tampered": "The files of this session contradict each other. Take nothing on this page as"
    " proved.",
    "missing": "The ledger knows this session, and its directory is gone.",
    "crashed": "The session was never sealed: its supervisor was lost. The records are good up to"
    " the last one; what came after is not known.",
    "open": "The session was still running when this report was made.",
    "unreadable": "The session could not be judged.",
    "consistent": "The log goes on from a checkpoint; what is before it was not hashed.",
    "undamaged": "Checksums fit; nothing was proved.",
}
BY_UPSTREAM: Final = (
    "Every record was hashed again, by the weaker rules of upstream nono: chain, Merkle root and"
    " session.json fit. Policy, bytes and programs are not bound."
)
GOOD: Final[tuple[Verdict, ...]] = ("verified", "open")
MAX_TITLE: Final = 120
SECOND_MS: Final = 1000


def when(time: datetime | None) -> str:
    """`2026-07-02 12:03:04 UTC`."""
    if time is None:
        return "not known"
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def moment(unix_ms: int) -> datetime:
    """The time in ms since 1970, held to the calendar."""
    return datetime.fromtimestamp(min(max(unix_ms, 0), END_OF_TIME) / 1000, UTC)


def clock(unix_ms: int, *, with_day: bool) -> str:
    """The time of day to the millisecond, with its day if asked."""
    time = moment(unix_ms)
    text = f"{time:%H:%M:%S}.{time.microsecond // 1000:03d}"
    return f"{time:%Y-%m-%d} {text}" if with_day else text


def span(milliseconds: int) -> str:
    """`5 ms`, `0.9 s`, `2m 30s`."""
    if milliseconds < SECOND_MS:
        return f"{milliseconds} ms"
    if milliseconds < 60 * SECOND_MS:
        return f"{milliseconds / 1000:.1f} s"
    return duration_text(milliseconds / 1000)


def title(stored: StoredSession) -> str:
    """The command, or the id of a session without one."""
    command = stored.summary.command if stored.summary is not None else []
    return shorten(command_text(command), MAX_TITLE) or stored.session_id


def duration(report: SessionReport) -> str:
    """How long it ran."""
    if report.started is None or report.ended is None:
        return "still running" if report.status == "running" else "not known"
    return span(max(0, int((report.ended - report.started).total_seconds() * 1000)))


def exit_text(report: SessionReport) -> str:
    """The exit code of the run, and the command's own if that is another one."""
    ended = report.story.ended
    if ended is None:
        return "still running" if report.status == "running" else "not known: it was never sealed"
    if ended.exit_code == LOST_EXIT_CODE:
        return "not known: the supervisor was lost"
    own = report.stored.facts.run_exit_code
    if not isinstance(own, int) or own == ended.exit_code:
        return str(ended.exit_code)
    return f"{own} (the command's own was {ended.exit_code})"


def in_short(report: SessionReport) -> Iterator[str]:
    """Sentences for a reader who reads nothing else."""
    attempts = report.story.attempts
    cage = report.stored.facts.isolation
    held = f" in {cage} isolation" if isinstance(cage, str) else ""
    if report.ended is not None:
        yield f"The command ran for {duration(report)}{held}; exit code: {exit_text(report)}."
    elif report.status == "running":
        yield f"The command is still running{held}."
    else:
        yield f"The command ran{held}; how it ended is not known."
    if attempts.denied:
        hosts = counted(len(report.denied) + report.cut.denied, "host")
        yield f"{counted(attempts.denied, 'attempt')} on {hosts} {_was(attempts.denied)} denied."
    else:
        yield "No attempt to reach a host was denied."
    if report.reached:
        moved = "of bytes there is no record"
        if report.story.connections:
            moved = f"{size_text(report.story.bytes_down)} came in and"
            moved += f" {size_text(report.story.bytes_up)} went out"
        yield f"It was let through to {counted(report.reached, 'host')}: {moved}."
    else:
        yield "It was let through to no host."
    files = len(report.files) + report.cut.files
    if files:
        yield f"{counted(files, 'path')} that {_was(files)} not granted {_was(files)} looked up."


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def verdict_text(answer: Verification) -> str:
    """The meaning of a verdict."""
    if answer.verdict == "verified" and answer.rules == "nono":
        return BY_UPSTREAM
    return VERDICTS[answer.verdict]


def fault_place(answer: Verification) -> str:
    """The place of the first fault."""
    bad = answer.first_bad
    if bad is None:
        return ""
    places = [
        f"{what} {where}"
        for what, where in (("line", bad.line), ("byte", bad.offset), ("sequence", bad.sequence))
        if where is not None
    ]
    return f"audit-events.ndjson, {', '.join(places)}" if places else "beside the log"


def signature_text(seen: AttestationSeen) -> str:
    """The meaning of a session's signatures."""
    if not seen.present:
        return "none: without a key the log is proved against everyone who could not write the state directory"  # noqa: E501
    if not seen.signature_verified:
        return "present, and not good" if seen.signed_through is not None else "not checked"
    if seen.pinned:
        return f"good, by the key that was given ({seen.key_id})"
    return f"good, by key {seen.key_id}, which was compared with no key of yours"


def proof_rows(answer: Verification) -> Iterator[tuple[str, str]]:
    """The values that were computed and compared."""
    yield "records", f"{answer.event_count:,}"
    yield "chain head", answer.chain_head or "none"
    yield "Merkle root", answer.merkle_root or "none"
    seen = answer.checkpoints
    if seen.matches is not None:
        last = "none" if seen.last_sequence is None else f"sequence {seen.last_sequence}"
        match = "all match" if seen.matches else "they do not match"
        yield "checkpoints", f"{seen.count}, the last at {last}, {match}"
    if answer.ledger.found:
        chain = "the chain holds" if answer.ledger.chain_verified else "other lines are damaged"
        fits = "its line matches" if answer.ledger.matches else "its line does not match"
        yield "ledger", f"{fits}, {chain}"
    yield "signature", signature_text(answer.attestation)


def sum_command(report: SessionReport) -> list[str]:
    """The lines of the command that compares the files with what they were for the report."""
    lines = [f"{one.sha256}  {one.name}" for one in report.sums]
    return [f"cd {quoted(str(report.stored.directory))}", "sha256sum -c <<'END'", *lines, "END"]


def quoted(path: str) -> str:
    """A path as a shell takes it back, harmless to a terminal."""
    return command_text([path]) if not path.isprintable() else shlex.quote(path)
