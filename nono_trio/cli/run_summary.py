"""The summary of a run for a CI job: as JSON, or as the Markdown page that GitHub shows.

Rules of this file: names of hosts and files come from the command, so they are cleaned and can't
end a cell, open a tag or a link; the file is opened before the command starts, and lies where the
command can't write it, because a CI job believes it; a summary that can't be written changes
nothing about the run.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.cli.json_output import json_text
from nono_trio.cli.live import end_lines, say
from nono_trio.cli.programs import programs_text
from nono_trio.cli.stderr import print_line
from nono_trio.cli.text import (
    FLOOD,
    MAX_DETAIL,
    clean,
    counted,
    denied_text,
    flood_text,
    numbers_text,
    shorten,
    target_text,
)
from nono_trio.errors import UsageError
from nono_trio.posix.paths import is_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from nono_trio.audit.verify.verdict import Verdict, Verification
    from nono_trio.cli.answers import HostOutcome, SummaryAnswer, SummaryHost
    from nono_trio.core.policy.allow_entry import DeniedHost
    from nono_trio.core.policy.attempts import AttemptTally
    from nono_trio.sandbox.filesystem.plan import FilePlan

GITHUB_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
# A step's page may have 1 MiB; a command that tried more hosts than that scans.
MAX_ROWS: Final = 50
# Characters that mean something in a Markdown cell or to HTML, by number instead.
_MARKUP: Final = str.maketrans({one: f"&#{ord(one)};" for one in "&<>|`*_[]()!#~@\\:"})


class RunSummary(msgspec.Struct, frozen=True):
    """The facts of a run that has ended and is sealed."""

    session_id: str
    directory: str
    exit_code: int
    command_exit_code: int
    attempts: AttemptTally
    programs: Mapping[str, Sequence[str]] = msgspec.field(default_factory=dict)
    """The programs that were denied something, each with its first hosts."""
    failure: str | None = None
    """The line about exit code 3 (`live.verdict_line`); None for a run that the policy passed."""
    is_kept: bool = True
    """The log stays after the end."""

    def answer(self, verdict: Verdict) -> SummaryAnswer:
        """The summary as JSON; `verdict` is that of `audit verify`."""
        from nono_trio.cli.answers import SummaryAnswer

        attempts = self.attempts
        return SummaryAnswer(
            session_id=self.session_id,
            directory=self.directory,
            verdict=verdict,
            exit_code=self.exit_code,
            command_exit_code=self.command_exit_code,
            failure=self.failure,
            denied=attempts.denied,
            failed=attempts.failed,
            allowed=attempts.allowed,
            hosts=[*_hosts(attempts)],
            denied_programs={name: [*hosts] for name, hosts in self.programs.items()},
            observed=[*attempts.observed],
            created_files=[*attempts.created],
            looked_up_files=[*attempts.looked_up_files],
            lost={str(kind): count for kind, count in attempts.unseen.items()},
        )

    def markdown(self, verdict: Verdict) -> Iterator[str]:
        """The lines of the page; `verdict` as in `fields`."""
        mark = "passed" if self.exit_code == 0 else f"failed, exit code {self.exit_code}"
        yield f"### nono-trio: {mark}"
        yield ""
        if self.exit_code != self.command_exit_code:
            yield f"The command's own exit code was {self.command_exit_code}."
            yield ""
        if self.failure is not None:
            yield f"{_marked(self.failure)}."
            yield ""
        yield f"{numbers_text(self.attempts)}. Log: {_cell(verdict)},"
        yield f"session `{self.session_id}`."
        if self.attempts.repeats >= FLOOD:
            yield ""
            yield f"{flood_text(self.attempts.repeats)}."
        rows = [*self._rows()]
        if rows:
            yield ""
            yield "| outcome | host | count | why | to allow |"
            yield "|---|---|--:|---|---|"
            yield from (f"| {' | '.join(row)} |" for row in rows[:MAX_ROWS])
            if len(rows) > MAX_ROWS:
                yield ""
                yield f"{counted(len(rows) - MAX_ROWS, 'host')} more in the log."
        if self.programs:
            yield ""
            yield f"Denied programs: {_cell(programs_text(self.programs))}"
        for kind, count in self.attempts.unseen.items():
            yield ""
            yield f"Lost: {count:,} {kind}."
        for what, paths in (
            ("Let through only by --observe", self.attempts.observed),
            ("Created outside the grants", self.attempts.created),
            ("Looked up and not granted", self.attempts.looked_up_files),
        ):
            if paths:
                yield ""
                shown = ", ".join(_cell(path) for path in [*paths][:MAX_ROWS])
                yield f"{what} ({len(paths)}): {shown}"
        yield ""

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for outcome, host in _refused(self.attempts):
            flags = " ".join(_cell(flag) for flag in host.allow_flags)
            count, why = f"{host.requests:,}", _cell(host.reason)
            yield f"**{outcome}**", _cell(denied_text(host)), count, why, flags
        for (target, port), times in self.attempts.allowed_targets():
            yield "allowed", _cell(target_text(target, port)), f"{times:,}", "", ""


def _refused(attempts: AttemptTally) -> Iterator[tuple[HostOutcome, DeniedHost]]:
    places: tuple[tuple[HostOutcome, dict[str, DeniedHost]], ...] = (
        ("denied", attempts.denied_hosts), ("failed", attempts.failed_hosts),
    )  # fmt: skip
    for outcome, hosts in places:
        for host in sorted(hosts.values(), key=lambda host: (-host.requests, host.target)):
            yield outcome, host


def _hosts(attempts: AttemptTally) -> Iterator[SummaryHost]:
    from nono_trio.cli.answers import SummaryHost

    for outcome, host in _refused(attempts):
        yield SummaryHost(
            outcome=outcome,
            target=host.target,
            ports=[*sorted(port for port in host.ports if port is not None)],
            count=host.requests,
            reason=host.reason,
            flags=[*host.allow_flags],
        )
    for (target, port), count in attempts.allowed_targets():
        yield SummaryHost(outcome="allowed", target=target, ports=[port], count=count)


def _cell(text: str) -> str:
    return _marked(shorten(clean(text), MAX_DETAIL))


def _marked(text: str) -> str:
    return clean(text).translate(_MARKUP)


class SummaryOutput:
    """The form and the place of the summary of a run; `path` None means stderr.

    Everything that it needs is loaded and open before the command starts.
    """

    def __init__(self, form: str, path: str | None) -> None:
        self._form = form
        self._path = path
        self._descriptor: int | None = None
        self._verify: Callable[[Path], Verification] | None = None
        if form in ("json", "github"):
            import nono_trio.cli.answers  # noqa: F401  (a run imports nothing at its end)
            from nono_trio.audit.verify.session import verify

            self._verify = verify

    def open(self, files: FilePlan | None, state_root: Path) -> None:
        """Open the file, which stays open until the process ends. `files` are the command's grants,
        None if it may write everywhere. Raises UsageError."""
        if self._path is None:
            return
        hint = "name a file elsewhere with --summary-file"
        grant = files.covers(self._path, "write") if files is not None else None
        if grant is not None:
            raise UsageError(
                f"{grant.source} {grant.path} would let the command write its own summary,"
                f" {self._path}",
                hint=hint,
            )
        if is_in(os.path.realpath(self._path), os.path.realpath(state_root)):
            raise UsageError(
                f"the summary can't be written into the audit state directory: {self._path}",
                hint=hint,
            )
        self._descriptor = _opened(self._path)

    def tell(self, summary: RunSummary, *, silent: bool) -> None:
        """Write the summary; `silent` leaves out the lines for people. Raises nothing."""
        if self._form == "none":
            return
        if self._verify is None:
            shown = summary.session_id if summary.is_kept else None
            lines = end_lines(summary.attempts, shown, summary.programs)
            if self._descriptor is None:
                for line in () if silent else lines:
                    say(line)
                return
            text = "".join(f"nono-trio: {line}\n" for line in lines)
        else:
            verdict = self._verify(Path(summary.directory)).verdict
            if self._form == "json":
                text = f"{json_text(summary.answer(verdict))}\n"
            else:
                text = "".join(f"{line}\n" for line in summary.markdown(verdict))
        self._write(text)

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            print_line(text.removesuffix("\n"))
            return
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            say(f"warning: the summary can't be written: {error.strerror or error}")


def summary_output(form: str, given: str | None) -> SummaryOutput:
    """Find the summary's place: a file that was given, or the one that GitHub names. Raises
    UsageError."""
    if form == "none":
        if given is not None:
            raise UsageError(
                "--summary-file and --summary none exclude each other",
                hint=f"--summary text --summary-file {shlex.quote(given)}",
            )
        return SummaryOutput(form, None)
    if form == "github" and given is None:
        given = os.environ.get(GITHUB_VARIABLE)
        if not given:
            raise UsageError(
                f"--summary github: {GITHUB_VARIABLE} is not set",
                hint="--summary-file F writes the page to a file of yours",
            )
    return SummaryOutput(form, given)


def _opened(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    hint = "name another file with --summary-file"
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"the summary can't be written to {path}: {reason}", hint=hint) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"--summary-file: expected a file, got something else: {path}", hint=hint)
    return descriptor
