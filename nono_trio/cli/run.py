"""`nono-trio run`: a command in its cage, and the summary of what was denied."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from nono_trio.cli.flags import given_options, run_options
from nono_trio.cli.live import say, verdict_line
from nono_trio.cli.option_help import GroupedCommand, GroupedOption
from nono_trio.cli.parameters import PATH
from nono_trio.cli.programs import DeniedPrograms
from nono_trio.cli.run_summary import RunSummary, summary_output
from nono_trio.cli.stderr import begin_session
from nono_trio.cli.text import clean
from nono_trio.cli.unkept_log import UNKEPT, end_of_log
from nono_trio.config.settle import settle_run
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.cli.follow import FollowPrinter
    from nono_trio.config.options import RunOptions
    from nono_trio.core.policy.judging import Judging
    from nono_trio.session.cage_launch import Listeners
    from nono_trio.session.prepare import PreparedRun
    from nono_trio.session.run import Finished

OBSERVING = (
    "OBSERVING: the command may reach every public host, and what no entry allows is only recorded;"
    " files, metadata, loopback and private addresses stay closed (--observe)"
)


@click.command(
    cls=GroupedCommand,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog="Example: nono-trio run --allow-cwd --allow-domain api.example.com -- agent --fix",
)
@run_options
@click.option(
    "--dry-run",
    cls=GroupedOption,
    group="output",
    is_flag=True,
    help="Show the resolved cage, start and record nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print the cage as JSON.")
@click.argument(
    "command",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="-- COMMAND [ARGS]...",
    shell_complete=PATH.shell_complete,
)
def run(
    command: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **given: Any,  # noqa: ANN401  (click passes any)
) -> None:
    """Run COMMAND in a cage: granted files only, and no network but the audited proxy.

    Exit code: the command's own; 128+n after signal n; 2 usage; 3 denied (--fail-on-deny);
    4 the audit log failed; 124 timed out; 126 cage; 127 no such command.
    """
    if not command:
        raise UsageError(
            "expected a command after --, got none", hint="nono-trio run [OPTIONS] -- COMMAND"
        )
    options = settle_run(command, given_options(given))
    if as_json and not dry_run:
        raise UsageError("--json belongs to --dry-run: a run's own output is its command's")
    if dry_run:
        _show_cage(options, silent=given["silent"], as_json=as_json)
        return
    raise SystemExit(execute(options, given))


def _show_cage(options: RunOptions, *, silent: bool, as_json: bool) -> None:
    from nono_trio.cli.dry_run import show_cage

    show_cage(options, say=_quiet if silent else say, as_json=as_json)


def _quiet(_told: object) -> None:
    """Drop a warning, for --silent."""


def _say_clean(text: str) -> None:
    say(clean(text))


def _say_cage(enforcement: Sequence[str]) -> None:
    for line in enforcement:
        say(f"cage: {line}")


def execute(options: RunOptions, given: dict[str, Any]) -> int:
    """Run, say what there is to say, return the exit code; raises the session's own error."""
    from nono_trio.session.core_dumps import forbid_core_dumps
    from nono_trio.session.prepare import prepare_run
    from nono_trio.session.run import run_command

    silent = given["silent"]
    forbid_core_dumps()
    output = summary_output(given["summary"], given["summary_file"])
    prepared = prepare_run(
        options,
        tell=_quiet if silent else _say_clean,
        accept=lambda files: output.open(
            files if options.sandbox else None, options.session.audit.state_root
        ),
    )
    _say_before(options, prepared, silent=silent)
    begin_session()
    programs = DeniedPrograms()
    remove_unkept = end_of_log(options.session.audit)
    finished = run_command(options, prepared, _listeners(prepared, programs, given))
    if finished.outcome.error is not None:
        if not remove_unkept(finished):
            _explain_end(finished)
        raise finished.outcome.error
    if not silent:
        for note in finished.notes:  # with paths that the command chose
            _say_clean(note)
    kept = options.session.audit.keeps_log
    run_summary = _summary_of(finished, options.judging, programs, is_kept=kept)
    output.tell(run_summary, silent=silent)  # before the log is removed: it may verify that
    remove_unkept(finished)
    if run_summary.failure is not None:
        say(run_summary.failure)
    return run_summary.exit_code


def _say_before(options: RunOptions, prepared: PreparedRun, *, silent: bool) -> None:
    if not silent:
        for warning in prepared.warnings:
            say(f"warning: {warning}")
        if not options.session.audit.keeps_log:
            say(f"warning: {UNKEPT}")
        for note in prepared.resources.home.notes:
            _say_clean(note)
    if options.session.network.observe:  # also when silent: the allowlist is not in force
        say(OBSERVING)


def _listeners(prepared: PreparedRun, programs: DeniedPrograms, given: dict[str, Any]) -> Listeners:
    """The listeners of the run: `programs`, and the terminal with --follow."""
    from nono_trio.session.cage_launch import Listeners

    watching: list[DeniedPrograms | FollowPrinter] = [programs]
    if given["follow"]:
        from nono_trio.cli.follow import FollowPrinter

        path = prepared.plan.environment.get("PATH", "")
        watching.append(FollowPrinter(path.split(os.pathsep)))
    return Listeners(
        warn=say,
        observe=[one.observe for one in watching],
        programs=[one.observe_programs for one in watching],
        built=_say_cage if given["verbose"] else _quiet,
    )


def _summary_of(
    finished: Finished, judging: Judging, programs: DeniedPrograms, *, is_kept: bool
) -> RunSummary:
    """The end of a run, with the exit code that its verdict gives."""
    attempts, own_code = finished.attempts, finished.outcome.exit_code
    code = judging.exit_code(own_code, attempts)
    failure = verdict_line(judging, judging.strays(attempts)) if code != own_code else None
    return RunSummary(
        finished.record.session_id,
        str(finished.record.directory),
        code,
        own_code,
        attempts,
        programs.named(),
        failure,
        is_kept,
    )


def _explain_end(finished: Finished) -> None:
    """Say where the log is when a session ended by an error of ours."""
    say(f"session {finished.record.session_id} ended early; its log: {finished.record.directory}")
