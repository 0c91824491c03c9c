"""`nono-trio audit export`: sessions as NDJSON, OCSF, OpenTelemetry, or upstream's envelope."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from nono_trio.cli.json_output import escape_unprintable
from nono_trio.cli.live import say, say_hint
from nono_trio.cli.output_file import STDOUT, output_file, require_output
from nono_trio.cli.parameters import PATH, GivenText, OneOf
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_location,
    chosen_sessions,
    complete_sessions,
)
from nono_trio.cli.text import clean
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import LogUnreadable, NonoTrioError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

# As in audit/export/formats.py, which is imported when it is used (a test holds them together).
FORMATS = ("ndjson", "ocsf", "otlp", "nono-ingest")


@click.command(
    short_help="Write sessions as NDJSON, OCSF, OpenTelemetry or upstream's envelope.",
    epilog="Example: nono-trio audit export --all --format ocsf -o events.ndjson",
)
@click.argument("session", required=False, shell_complete=complete_sessions)
@click.option("--all", "every", is_flag=True, help="Every session, oldest first.")
@click.option(
    "--format", "form", type=OneOf(FORMATS), default="ndjson", show_default=True,
    help="ocsf is 1.8; otlp is what an OpenTelemetry Collector's file exporter writes.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write FILE instead of stdout.")
@click.option(
    "--ocsf-integrity", "integrity", is_flag=True,
    help="Add each record's place in the hash chain (the profile record_integrity of OCSF 1.9).",
)  # fmt: skip
@click.option("--tenant", type=GivenText("an id"), metavar="ID", help="For nono-ingest.")
@click.option("--shipper", type=GivenText("an id"), metavar="ID", help="For nono-ingest.")
@audit_dir_option
def export(
    session: str | None, every: bool, form: str, output: str | None, integrity: bool,
    tenant: str | None, shipper: str | None, audit_dir: str | None,
) -> None:  # fmt: skip
    """Write sessions in a format of others, one object a line, in constant memory.

    SESSION, or the state directory of --all, may be a URL, as for `audit verify`.

    Each object has the id SESSION/SEQUENCE, so that a receiver can drop a second copy. A tampered
    session is written up to the fault. docs/audit.md has the formats.

    Exit code: all written 0; a session is tampered 1; can't be read 2.
    """
    if every == bool(session):
        raise click.UsageError("expected one session, or --all, and not both")
    if (tenant is None or shipper is None) and form == "nono-ingest":
        raise UsageError(
            "--format nono-ingest: expected --tenant and --shipper, as the enrolment gave them",
            hint="for a file without an enrolment: --format ndjson",
        )
    if integrity and form != "ocsf":
        raise click.UsageError("--ocsf-integrity is for --format ocsf")
    location = audit_location(audit_dir)
    directories = _directories(location, session)
    from nono_trio.audit.export.export import Exporter

    with _opened(output, location) as write, Waiting("exporting") as waiting:
        exporter = Exporter(
            form, write, integrity=integrity, tenant=tenant or "", shipper=shipper or ""
        )
        if isinstance(directories, list):
            waiting.expect(len(directories))
            if not directories:
                say(f"no session in {location}")
        errors = _export_all(exporter.export, directories, waiting)
    if not every and errors:
        raise errors[0]
    for error in errors:
        say(f"error: {clean(error.message)}")
        if error.hint is not None:
            say_hint(error.hint)
    if errors:
        raise SystemExit(min(error.exit_code for error in errors))  # 1 is the worst


def _directories(location: Path | str, session: str | None) -> Iterable[Path]:
    """The session, or every one: oldest first, those at a URL by name."""
    chosen = chosen_sessions(location, session)
    if chosen is not None or isinstance(location, str):
        return chosen or ()
    from nono_trio.audit import store

    return [one.directory for one in reversed(store.sessions(location))]


def _export_all(
    export_one: Callable[[Path], int], directories: Iterable[Path], waiting: Waiting
) -> list[NonoTrioError]:
    """Export each session and return what was wrong with some; the others are written."""
    from nono_trio.audit.remote import as_asked

    errors: list[NonoTrioError] = []
    for directory in waiting.over(directories):
        try:
            export_one(directory)
        except (LogUnreadable, UsageError) as error:
            error.message = as_asked(error.message)
            error.hint = error.hint and as_asked(error.hint)
            errors.append(error)
    return errors


@contextmanager
def _opened(output: str | None, location: Path | str) -> Iterator[Callable[[bytes], object]]:
    """Return what writes to a file, which appears when it is whole, or to stdout."""
    if output is None or output == STDOUT:
        yield _write_for_screen if sys.stdout.isatty() else sys.stdout.buffer.write
        sys.stdout.flush()
        return
    require_output(output, None if isinstance(location, str) else location, replace=True)
    with output_file(output, replace=True) as file:
        yield file.write


def _write_for_screen(data: bytes) -> None:
    sys.stdout.write(escape_unprintable(data.decode()))
