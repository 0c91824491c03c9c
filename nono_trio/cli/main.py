"""The `nono-trio` command: finds the subcommand, and turns every error into text and exit code.

Rules of this file: a subcommand's module is imported only when that subcommand is used (the help of
the root included), because verifying a log must not pay for a proxy; errors for people leave here
and nowhere else, in one form: `nono-trio: error: ...`, then `hint: ...`, on stderr; `--json` adds
an object on stdout.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import click

from nono_trio import __version__
from nono_trio.cli import stderr
from nono_trio.cli.group import LazyGroup
from nono_trio.cli.pasted import pasteable, remember_state
from nono_trio.core.log.shown_text import clean
from nono_trio.errors import NonoTrioError, path_hint
from nono_trio.posix.umask import keep_owners_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

PROGRAM = "nono-trio"

# Name -> where the command is, and its line in the root's help (a test holds the two together).
COMMANDS = {
    "run": (
        "nono_trio.cli.run:run",
        "Run COMMAND in a cage: granted files only, and no network but the audited proxy.",
    ),
    "shell": (
        "nono_trio.cli.shell:shell",
        "Start your shell in a cage, with job control; exit it to seal the log.",
    ),
    "proxy": (
        "nono_trio.cli.proxy:proxy",
        "Run the filtering, auditing proxy alone: a sidecar, a container's entry, a benchmark.",
    ),
    "ps": (
        "nono_trio.cli.ps:ps",
        "List the sessions that run, and those whose supervisor was lost, newest first.",
    ),
    "stop": (
        "nono_trio.cli.ps:stop",
        "End a running session: its command is asked, after the timeout killed, and its log"
        " sealed.",
    ),
    "inspect": (
        "nono_trio.cli.ps:inspect",
        "Show one session as it is now: its processes, its cage, its log (default: the newest).",
    ),
    "why": (
        "nono_trio.cli.why:why",
        "Say whether a run with these flags may reach a host, a URL or a file, and why.",
    ),
    "profile": (
        "nono_trio.cli.profile:profile",
        "List, show, check and begin profiles: what `-p NAME|FILE` starts a cage from.",
    ),
    "home": (
        "nono_trio.cli.home:home",
        "List and remove the homes that cages keep: logins, caches and settings of commands.",
    ),
    "keys": (
        "nono_trio.cli.keys:keys",
        "Make, list and export the keys that logs are signed with.",
    ),
    "doctor": (
        "nono_trio.cli.doctor:doctor",
        "Say what this machine can enforce, what is missing and how to get it.",
    ),
    "audit": (
        "nono_trio.cli.audit.group:audit",
        "List, show, follow and verify the audit logs of sessions.",
    ),
    "completion": (
        "nono_trio.cli.completion:completion",
        "Print a script that makes a shell complete commands, flags, files and session ids.",
    ),
}

# A shell reports these for a program that a signal ended, and pipelines expect them from us.
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE
USAGE = 2
# The loader's words for a library that memory is too short for: its error has no type of its own.
_NOT_MAPPED = "failed to map segment from shared object"


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: nono-trio run --allow-cwd --allow-domain api.example.com -- agent --fix",
)
@click.version_option(__version__, "--version", message=f"{PROGRAM} %(version)s")
def cli() -> None:
    """Run a command in a cage and record every network decision before it takes effect."""


def main() -> NoReturn:
    """The console entry."""
    keep_owners_bits()
    if sys.stdout is None:  # the caller closed it
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Nowhere()))
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr escapes already
        sys.stdout.reconfigure(errors="backslashreplace")
    asked = os.environ.get("_NONO_TRIO_COMPLETE")  # completion.COMPLETE_VARIABLE
    if asked is not None and len(sys.argv) == 1:  # a shell, at Tab: its variables have the line
        from nono_trio.cli.completion import answer

        _leave(answer(cli, asked))
    code = exit_code(sys.argv[1:])
    stderr.finish()
    _leave(code)


class _Nowhere(io.RawIOBase):
    """Takes what is written, without a descriptor: that of stdout may be another file by now."""

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        return memoryview(data).nbytes


def _leave(code: int) -> NoReturn:
    """End the process without the interpreter's own end.

    Every log is sealed and every file closed by then. To take the modules apart costs a run a
    tenth of its time, and a flush that fails there would change the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader has gone, or there is no room
            if stream is not None:
                stream.flush()
    os._exit(code)


def exit_code(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code of the process; prints its errors."""
    remember_state(arguments)
    try:
        code = _invoke(arguments)
        if sys.stdout is not None:  # as a program has it that calls this itself
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        failed = _system_error(error)
    except MemoryError:
        failed = _no_memory()
    except NonoTrioError as error:  # before ImportError: a LateImport is both
        failed = _Failed(error.message, error.hint, error.exit_code)
    except ImportError as error:
        if _NOT_MAPPED not in str(error):
            raise
        failed = _no_memory()
    except click.exceptions.NoArgsIsHelpError as error:
        stderr.print_line(error.format_message())
        return USAGE
    except click.ClickException as error:
        failed = _click_error(error, arguments)
    else:
        return code
    if failed.hint is not None:
        failed = failed._replace(hint=pasteable(failed.hint))
    tell_error(failed.message, failed.hint)
    if arguments and _wants_json(arguments):
        _print_error(failed)
    return failed.exit_code


class _Failed(NamedTuple):
    """The end of a command that failed."""

    message: str
    hint: str | None
    exit_code: int


def _no_memory() -> _Failed:
    hint = "see `ulimit -v` and what else runs"
    return _Failed("there is not enough memory for that", hint, NonoTrioError.exit_code)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether `--json` was given to us, and not to the command of a run: a run's stdout is
    its command's."""
    ours = {*itertools.takewhile(lambda word: word != "--", arguments)}
    if arguments[0] in ("run", "shell") and "--dry-run" not in ours:
        return False
    return "--json" in ours


def _print_error(failed: _Failed) -> None:
    """Print the error as an object on stdout, where a reader of JSON expects one."""
    from nono_trio.cli.answers import ErrorAnswer, Failure  # late: for errors only
    from nono_trio.cli.json_output import print_json

    with suppress(OSError, ValueError):
        if sys.stdout is not None:
            print_json(ErrorAnswer(error=Failure(**failed._asdict())))


def tell_error(message: str, hint: str | None) -> None:
    """Print an error for a person; untrusted text in it is made harmless."""
    stderr.print_line(f"{PROGRAM}: error: {clean(message)}")
    if hint:
        stderr.print_line(f"hint: {clean(hint)}")


def _invoke(arguments: Sequence[str]) -> int:
    # Not `cli.main()`: it has its own ideas of error texts, Ctrl-C and closed pipes.
    try:
        with cli.make_context(PROGRAM, list(arguments)) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _system_error(error: OSError) -> _Failed:
    """Describe an error that no command handled: a full or broken output has no file name."""
    what = "the output can't be written" if error.filename is None else str(error.filename)
    if error.filename is None and sys.stdout is not None:
        _forget_stdout()
    hint = None if error.filename is None else path_hint(error.filename, error)
    return _Failed(f"{what}: {error.strerror or error}", hint, NonoTrioError.exit_code)


def _click_error(error: click.ClickException, arguments: Sequence[str]) -> _Failed:
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().removesuffix(".")
    command = context.command_path if context is not None else _named_command(arguments)
    hint = f"see `{command} --help`"
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        # click's own text has the choices once more, each in a line
        message = f"missing argument {error.param.get_error_hint(cast('click.Context', context))}"
    if isinstance(error, click.NoSuchOption):
        message = f"no such option {error.option_name!a}"
        meant = _nearest_option(error)
        hint = hint if meant is None else f"did you mean {meant}?"
    return _Failed(message[:1].lower() + message[1:], hint, error.exit_code)


def _named_command(arguments: Sequence[str]) -> str:
    """Return the command that was named, where the error lacks it: click's about an option
    without its value."""
    names, command = [PROGRAM], cast("click.Command", cli)
    for word in arguments:
        found = None
        if isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
        if found is None:
            break
        names.append(word)
        command = found
    return " ".join(names)


def _nearest_option(error: click.NoSuchOption) -> str | None:
    from nono_trio.core.profile.values import nearest  # late: it is for mistakes only

    known = error.ctx.command.get_params(error.ctx) if error.ctx is not None else ()
    return nearest(error.option_name, [flag for one in known for flag in one.opts])


def _forget_stdout() -> None:
    """Discard the flush at the end: the reader of our output has gone, or has no room."""
    with suppress(io.UnsupportedOperation):  # it is _Nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
