"""`nono-trio audit export-session` and `audit import`: their options and their output."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from nono_trio.cli.audit.public_key import public_key_option, read_public_keys
from nono_trio.cli.ending import ending_at_sigterm
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say, say_hint
from nono_trio.cli.output_file import STDOUT, output_file, output_place, require_output
from nono_trio.cli.parameters import PATH
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    session_directory,
)
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean, size_text
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import JSON_SCHEMA, UsageError, unreadable
from nono_trio.posix.account import expand_home

if TYPE_CHECKING:
    from nono_trio.audit.verify.verdict import Verification

# The errors of a write, and of no read: the archive is not at fault.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@click.command(
    "export-session",
    short_help="Write one session into an archive that verifies alone.",
    epilog="Example: nono-trio audit export-session latest -o session.tar",
)
@click.argument("session", shell_complete=complete_sessions)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", required=True, help="The archive; - for stdout."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
@audit_dir_option
def export_session(
    session: str, output: str, force: bool, as_json: bool, audit_dir: str | None
) -> None:
    """Write one session into an archive, a tar that `audit verify FILE` proves on any machine.

    All files of the session are in it, its line in the ledger (with a proof if the ledger is
    signed), and the public keys. The session is verified first. Exit code: 0; of a session that is
    not `verified`, that of `audit verify`: tampered 1, unreadable 2, open 5, crashed 6.
    """
    from nono_trio.audit.archive.write import held_for_reading, judge, write_archive

    if output == STDOUT and as_json:
        raise click.UsageError("--json and --output - exclude each other")
    directory = session_directory(audit_root(audit_dir), session).resolve()
    if output == STDOUT:
        _require_no_terminal()
    else:
        require_output(output, directory.parent, replace=force)
    try:
        with held_for_reading(directory):
            with Waiting("verifying") as wait:
                answer = judge(directory, wait.watch)
            if answer.verdict != "verified":
                _refuse(answer, directory.name, as_json=as_json)
            with Waiting("writing the archive"):
                if output == STDOUT:
                    write_archive(directory, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
                    return
                with output_file(output, replace=force) as file:
                    write_archive(directory, file)
                    size = file.tell()
    except BrokenPipeError:
        raise
    except BlockingIOError:
        _refuse_running(directory.name, as_json=as_json)
    except OSError as error:
        if error.filename is None and output == STDOUT:  # no file of ours: it is stdout's
            raise
        raise unreadable(error.filename or directory, error) from error
    if as_json:
        from nono_trio.cli.answers import ExportedSession

        place = str(output_place(output))
        print_json(ExportedSession(session_id=directory.name, file=place, bytes=size))
    else:
        say(f"session {directory.name} is in {clean(output)}, {size_text(size)}")


@click.command(
    "import",
    short_help="Import another machine's session from an archive.",
    epilog="Example: nono-trio audit import session.tar --public-key-file audit-key.pem",
)
@click.argument("archive", type=PATH)
@public_key_option
@json_option
@audit_dir_option
def import_session(
    archive: str, public_key_file: str | None, as_json: bool, audit_dir: str | None
) -> None:
    """Import a session from an archive of `audit export-session`, so that `list`, `show` and the
    other commands have it.

    Only a `verified` one is imported. It is marked as another machine's: the ledger says that it
    was imported, its own ledger's line stays beside it, and `latest` is a session of this machine
    while there is one. Exit code: imported, or here already 0; tampered 1; another session has its
    id 1; no whole archive 2; the state directory can't be written 4; otherwise as `audit verify`.
    """
    from nono_trio.audit.archive.import_session import import_archive, not_written

    pinned = None if public_key_file is None else read_public_keys(public_key_file)
    if "://" in archive and not os.path.exists(archive):
        raise UsageError(
            f"expected a file, got the URL {clean(archive)}",
            hint="copy the archive to this machine, then import the copy",
        )
    path = Path(os.path.abspath(expand_home(archive)))
    root = audit_root(audit_dir)
    try:
        with Waiting("verifying") as wait, ending_at_sigterm():
            done = import_archive(path, root, pinned, wait.watch)
    except OSError as error:
        if error.errno in _NOT_WRITTEN:
            raise not_written(root, error) from error
        raise unreadable(error.filename or path, error) from error
    answer = done.verdict
    session_id = done.directory.name
    if as_json:
        from nono_trio.cli.answers import ImportedSession

        print_json(
            ImportedSession(session_id=session_id, imported=done.is_new, verification=answer)
        )
    else:
        _tell(answer)
        if done.is_new:
            say(f"session {session_id} is imported")
        elif answer.verdict == "verified":
            say(f"session {session_id} is here already, nothing was changed")
        else:
            say(f"session {clean(session_id)} is not imported")
    raise SystemExit(answer.exit_code)


def _tell(answer: Verification) -> None:
    from nono_trio.cli.audit.render import verification_lines

    print_verdict(verification_lines(answer, brief=False))
    sys.stdout.flush()


def _refuse(answer: Verification, session_id: str, *, as_json: bool) -> NoReturn:
    """End with the verdict on a session that is not written, and its exit code."""
    if answer.verdict == "open":
        _refuse_running(session_id, as_json=as_json)
    if as_json:
        print_json(answer)
    else:
        _tell(answer)
    say(f"session {clean(session_id)} is {answer.verdict}, so it is not exported")
    hint = f"`nono-trio audit verify {session_id}` says why; keep its files as evidence"
    if answer.verdict == "crashed":
        from nono_trio.audit.recovery.recover_command import recover_command  # late: rare

        hint = f"`{recover_command(Path(answer.path))}` seals it"
    say_hint(hint)
    raise SystemExit(answer.exit_code)


def _refuse_running(session_id: str, *, as_json: bool) -> NoReturn:
    from nono_trio.audit.verify.verdict import EXIT_CODES

    say(f"session {clean(session_id)} is running, so it is not exported")
    say_hint(f"`nono-trio stop {session_id}` ends it")
    if as_json:
        print_json({"schema": JSON_SCHEMA, "session_id": session_id, "verdict": "open"})
    raise SystemExit(EXIT_CODES["open"])


def _require_no_terminal() -> None:
    if sys.stdout.isatty():
        raise UsageError(
            "--output -: expected a pipe or a file, got a terminal",
            hint="give the archive a name: --output session.tar",
        )
