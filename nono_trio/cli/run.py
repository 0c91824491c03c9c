"""`nono-trio run`: a command in its cage; and what is said about it afterwards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from nono_trio.cli.live import DenialCount, FollowPrinter, say
from nono_trio.cli.options import PORT_RANGE, build_session_options, option, session_options
from nono_trio.errors import UsageError
from nono_trio.sandbox.plan import FileOptions
from nono_trio.session.options import RunOptions

if TYPE_CHECKING:
    from nono_trio.session.run import Finished

FAIL_ON_DENY = 3

_FILES = (
    option("-a", "--allow", multiple=True, metavar="DIR", help="Read and write below DIR."),
    option("-r", "--read", multiple=True, metavar="DIR", help="Read and execute below DIR."),
    option("-w", "--write", multiple=True, metavar="DIR", help="Write below DIR."),
    option("--allow-file", multiple=True, metavar="FILE", help="Read and write one file."),
    option("--read-file", multiple=True, metavar="FILE", help="Read one file."),
    option("--write-file", multiple=True, metavar="FILE", help="Write one file."),
    option(
        "--bypass-protection",
        multiple=True,
        metavar="PATH",
        help="Lift the protection of a path (secrets, start-up files); grant it as well.",
    ),
    option("--allow-cwd", is_flag=True, help="Read and write below the working directory."),
    option("--workdir", metavar="DIR", help="Start there instead of the current directory."),
)

_CAGE = (
    option("--isolation", type=click.Choice(["auto", "namespace", "landlock", "none"]),
           default="auto", show_default=True,
           help="How the network is shut off: auto takes namespaces, and Landlock with seccomp"
           " where they are refused; `none` is a way out. Recorded."),
    option("--no-sandbox", is_flag=True, help="Leave the file system open: recorded."),
    option("--proxy-port", type=PORT_RANGE, default=0, metavar="PORT",
           help="The proxy's port inside the cage  [default: any]"),
    option("--open-port", type=click.IntRange(1, 65_535), multiple=True, metavar="PORT",
           help="Let the command reach PORT of the host's loopback; relayed and recorded."),
    option("--listen-port", type=click.IntRange(1, 65_535), multiple=True, metavar="PORT",
           help="Let the host reach PORT of the command; relayed and recorded."),
    option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
           help="End the whole run after that long (exit code 124)."),
)  # fmt: skip

_OUTPUT = (
    option("-s", "--silent", is_flag=True, help="Say nothing of our own but errors."),
    option("-v", "--verbose", is_flag=True, help="Say what the cage is made of."),
    option("--follow", is_flag=True, help="Print each decision on stderr as it is recorded."),
    option("--fail-on-deny", is_flag=True,
           help="Exit 3 when the command succeeded but a request was denied."),
)  # fmt: skip


def _options(command: Any) -> Any:  # noqa: ANN401  (click decorators are untyped callables)
    for decorate in reversed((*_FILES, *_CAGE, *_OUTPUT)):
        command = decorate(command)
    return command


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog="Example: nono-trio run --allow-cwd --allow-domain api.example.com -- agent --fix",
)
@_options
@session_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]...")
def run(command: tuple[str, ...], **given: Any) -> None:  # noqa: ANN401  (click passes any)
    """Run COMMAND in a cage: granted files only, and no network but the audited proxy.

    Exit code: the command's own; 128+n after signal n; 2 usage; 3 denied (--fail-on-deny);
    4 the audit log failed; 124 timed out; 126 cage; 127 no such command.
    """
    if not command:
        raise UsageError(
            "expected a command after --, got none", hint="nono-trio run [OPTIONS] -- COMMAND"
        )
    options = RunOptions(
        command=command,
        session=build_session_options(given, proxy_port=given["proxy_port"]),
        files=FileOptions(
            allow=given["allow"],
            read=given["read"],
            write=given["write"],
            allow_file=given["allow_file"],
            read_file=given["read_file"],
            write_file=given["write_file"],
            bypass_protection=given["bypass_protection"],
            allow_cwd=given["allow_cwd"],
            workdir=given["workdir"],
        ),
        isolation=given["isolation"],
        sandbox=not given["no_sandbox"],
        open_ports=given["open_port"],
        listen_ports=given["listen_port"],
        timeout_seconds=given["timeout"],
        environment=dict(os.environ),
    )
    raise SystemExit(_run(options, given))


def _run(options: RunOptions, given: dict[str, Any]) -> int:
    from nono_trio.session.prepare import prepare_run
    from nono_trio.session.run import Listeners, run_command

    silent = given["silent"]
    prepared = prepare_run(options)
    if not silent:
        for warning in prepared.warnings:
            say(f"warning: {warning}")
    if given["verbose"]:
        for line in prepared.enforcement:
            say(f"cage: {line}")
    denials = DenialCount()
    observers = [denials.observe, *([FollowPrinter().observe] if given["follow"] else [])]
    finished = run_command(options, prepared, Listeners(warn=say, observe=observers))
    if finished.outcome.error is not None:
        _explain_end(finished)
        raise finished.outcome.error
    if not silent:
        for line in denials.summary(finished.record.session_id):
            say(line)
    code = finished.outcome.exit_code
    return FAIL_ON_DENY if code == 0 and denials.total and given["fail_on_deny"] else code


def _explain_end(finished: Finished) -> None:
    """Say where the log is when a session ended by an error of ours."""
    say(f"session {finished.record.session_id} ended early; its log: {finished.record.directory}")
