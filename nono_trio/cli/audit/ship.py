"""`nono-trio audit ship`: sends sessions to a receiver, and goes on with --follow."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.output_file import require_outside
from nono_trio.cli.parameters import PATH, GivenText, OneOf
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    session_directory,
)
from nono_trio.cli.text import clean, counted
from nono_trio.errors import NonoTrioError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.audit.export.destination import Destination
    from nono_trio.audit.export.formats import LineFormat
    from nono_trio.audit.export.otlp_endpoint import Endpoint, Headers
    from nono_trio.audit.export.shipper import Shipped, Shipper

# As in audit/export/formats.py, which is imported when it is used (a test compares them).
FORMATS = ("ndjson", "ocsf", "otlp")
FAULTS = 1  # the exit code if a session was tampered with, removed or refused
_HINT = "as in --to otlp+https://collector.example.com:4318 or --to file:///var/log/agent.ndjson"
_OTLP_PORT = 4318
_LOGS_PATH = "/v1/logs"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.command(
    short_help="Send sessions to an OpenTelemetry endpoint, a file or a command.",
    epilog="Example: nono-trio audit ship --all --follow --to otlp+https://collector.example.com",
)
@click.argument("session", required=False, shell_complete=complete_sessions)
@click.option("--all", "every", is_flag=True, help="Every session, oldest first.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new records and sessions.")
@click.option(
    "--to", required=True, type=GivenText("a URL"), metavar="URL",
    help="otlp+https://HOST[:PORT][/PATH], otlp+http://..., file:///PATH, 'cmd://PROGRAM ARG...'.",
)  # fmt: skip
@click.option(
    "--format", "form", type=OneOf(FORMATS), default="otlp", show_default=True,
    help="At an endpoint, another format's text is the body of the log records.",
)  # fmt: skip
@click.option(
    "--header", "headers", multiple=True, type=GivenText("a field"), metavar="NAME=SOURCE",
    help="Add a secret field: SOURCE is env://VAR, file://PATH, keyring://SERVICE/USER or cmd://...",
)  # fmt: skip
@click.option("--ca-file", type=PATH, metavar="FILE", help="Trust this CA as well (PEM).")
@click.option("--no-compression", is_flag=True, help="For an endpoint without gzip.")
@click.option("--ocsf-integrity", "integrity", is_flag=True, help="As `audit export` has it.")
@json_option
@audit_dir_option
def ship(
    session: str | None, every: bool, follow: bool, to: str, form: str, headers: tuple[str, ...],
    ca_file: str | None, no_compression: bool, integrity: bool, as_json: bool,
    audit_dir: str | None,
) -> None:  # fmt: skip
    """Send sessions to a receiver, each record at least once and in order, with an id.

    It goes on from where it was, also after kill -9. SIGTERM and Ctrl-C send what is there, for ten
    seconds, then end it; a second one ends it at once.

    Exit code: all sent, or stopped 0; a session is tampered or gone, a record was refused, or the
    receiver does not answer 1; wrong flags 2.
    """
    if every == bool(session):
        raise click.UsageError("expected one session, or --all, and not both")
    if integrity and form != "ocsf":
        raise click.UsageError("--ocsf-integrity is for --format ocsf")
    root = audit_root(audit_dir)
    only = None if every else _session_of(root, session or "")
    line_form: LineFormat = form  # type: ignore[assignment]  # one of FORMATS
    destination = _destination(
        to, root, line_form, headers, ca_file, integrity=integrity, compressed=not no_compression
    )
    from nono_trio.audit.export.cursor import Cursor
    from nono_trio.audit.export.shipper import Shipper

    cursor = Cursor(root.parent, to, f"{form} integrity" if integrity else form)
    with cursor.held():
        import trio

        shipper = Shipper(root, cursor, destination, _tell, follow=follow, session_id=only)
        shipped = trio.run(_run, shipper)
    _tell_end(shipped, as_json=as_json)
    if shipped.faults or shipped.refused:
        raise SystemExit(FAULTS)


def _tell(message: str) -> None:
    say(clean(message))


def _tell_end(shipped: Shipped, *, as_json: bool) -> None:
    if as_json:
        from nono_trio.cli.answers import ShipAnswer

        print_json(ShipAnswer(sent=shipped.lines, refused=shipped.refused, faults=shipped.faults))
    else:
        say(f"{counted(shipped.lines, 'line')} sent, {shipped.refused:,} refused")


async def _run(shipper: Shipper) -> Shipped:
    """Run until all is sent or a signal came; the second signal ends it at once."""
    import trio

    from nono_trio.audit.export.shipper import FLUSH_SECONDS

    failed: NonoTrioError | OSError | None = None
    is_whole = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await anext(signals)
                nursery.cancel_scope.deadline = trio.current_time() + FLUSH_SECONDS
                shipper.stopping.set()
                await anext(signals)
                nursery.cancel_scope.cancel(reason="the second signal")

            nursery.start_soon(stop)
            try:
                await shipper.run()
                is_whole = True
            except (
                NonoTrioError,
                OSError,
            ) as error:  # not through the nursery, which would make a group
                failed = error
            nursery.cancel_scope.cancel(reason="all is sent")
    if failed is not None:
        raise failed
    if not is_whole:
        _tell("not all is sent; the next `nono-trio audit ship` goes on from there")
    return shipper.shipped


def _session_of(root: Path, session: str) -> str:
    directory = session_directory(root, session)
    if directory.parent != root:
        raise UsageError(
            f"expected a session in {root}, got {directory}", hint="see `nono-trio audit list`"
        )
    return directory.name


def _destination(
    to: str, root: Path, form: LineFormat, headers: Sequence[str], ca_file: str | None,
    *, integrity: bool, compressed: bool,
) -> Destination:  # fmt: skip
    """Return the receiver that --to names. Raises UsageError."""
    scheme, separator, rest = to.partition("://")
    if not separator and to.startswith(("/", "./", "../")):
        scheme, rest = "file", os.path.abspath(to)
    if scheme in ("otlp", "otlp+http", "otlp+https"):
        return _endpoint(
            to, scheme, form, headers, ca_file, integrity=integrity, compressed=compressed
        )
    if headers or ca_file is not None or not compressed:
        what = "--header, --ca-file and --no-compression"
        raise UsageError(f"{what} are for otlp+https://", hint=_HINT)
    from nono_trio.audit.export.destination import CommandDestination, FileDestination

    if scheme == "file" and rest.startswith("/"):
        _require_file(rest, root)
        return FileDestination(rest, form, integrity=integrity)
    if scheme == "cmd" and rest.strip():
        return CommandDestination(_words(rest), form, integrity=integrity)
    raise UsageError(f"--to: expected a destination, got {clean(to)}", hint=_HINT)


def _require_file(path: str, root: Path) -> None:
    """Refuse a place that no wait makes fit, and one where a log or the ledger would grow."""
    require_outside("--to", Path(path), root)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(
            f"--to: expected a file, got something else: {path}",
            hint=f"look at it: ls -ld {shlex.quote(path)}",
        )


def _words(text: str) -> list[str]:
    from nono_trio.posix.private_file import program_hint

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--to: {text!a} is not a command line: {error}", hint=_HINT) from error
    program = shutil.which(words[0])
    if program is None:
        raise UsageError(f"--to: there is no command {words[0]!a}", hint=program_hint(words[0]))
    return [program, *words[1:]]


def _endpoint(
    to: str, scheme: str, form: LineFormat, headers: Sequence[str], ca_file: str | None,
    *, integrity: bool, compressed: bool,
) -> Destination:  # fmt: skip
    try:
        from nono_trio.audit.export.otlp_endpoint import OtlpEndpoint
    except ImportError:
        raise UsageError(
            "--to: otlp+https:// needs the library opentelemetry-proto",
            hint="pip install 'nono-trio[otlp]'",
        ) from None
    endpoint = parse_endpoint(to, tls=scheme != "otlp+http")
    if headers and not endpoint.tls and endpoint.host not in _LOOPBACK:
        raise UsageError(
            "--header: a secret would be sent to another machine without TLS",
            hint=f"--to otlp+https://{endpoint.host}:{endpoint.port}",
        )
    import ssl

    context = None
    if endpoint.tls:
        try:
            context = ssl.create_default_context()
            if ca_file is not None:
                context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"--ca-file: {ca_file} can't be used: {error.strerror or error}",
                hint=f"look at it: ls -l {shlex.quote(ca_file or '')}",
            ) from error
    return OtlpEndpoint(
        endpoint, form, _SecretFields(headers).read, context,
        integrity=integrity, compressed=compressed,
    )  # fmt: skip


def parse_endpoint(to: str, *, tls: bool) -> Endpoint:
    """Return the endpoint in a URL; raises UsageError. A URL without a path means /v1/logs."""
    from nono_trio.audit.export.otlp_endpoint import Endpoint

    try:
        parts = urlsplit(to)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--to: {clean(to)} is not a URL: {error}", hint=_HINT) from error
    path = parts.path if parts.path not in ("", "/") else _LOGS_PATH
    is_plain = path.isascii() and path.isprintable() and " " not in path
    if (
        not host
        or not host.isascii()
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not is_plain
    ):
        raise UsageError(
            "--to: expected otlp+https://HOST[:PORT][/PATH] without a user, a query or a fragment",
            hint="a secret goes into a field: --header authorization=env://VAR",
        )
    return Endpoint(tls=tls, host=host, port=port or _OTLP_PORT, path=path)


class _SecretFields:
    """The fields that --header names, read when they are needed: a file may be rotated.

    A variable stays as it is. A command or a keyring is asked once.
    """

    def __init__(self, given: Sequence[str]) -> None:
        from nono_trio.core.credentials.credential import parse_source
        from nono_trio.session.credentials.readers import SourceFailed, make_reader

        self._readers = []
        for one in given:
            name, equals, source = one.partition("=")
            if not equals or not name.isascii() or not name.replace("-", "").isalnum():
                raise UsageError(
                    "--header: expected NAME=SOURCE",
                    hint="as in --header authorization=env://OTLP_AUTHORIZATION",
                )
            try:
                parsed = parse_source(name, source)
            except UsageError as error:
                said = error.message.partition(": ")[2]
                raise UsageError(f"--header {name}: {said}", hint=error.hint) from None
            try:
                reader = make_reader(parsed, os.environ)
                value = _field_value(name, reader.read().reveal())
            except SourceFailed as failed:
                raise UsageError(f"--header {name}: {failed.args[0]}", hint=failed.hint) from None
            self._readers.append((name, reader if parsed.kind == "file" else None, value))

    def read(self) -> Headers:
        """Return the fields; blocks. Raises OSError if a file can't be read any more."""
        from nono_trio.session.credentials.readers import SourceFailed

        fields = []
        for name, reader, value in self._readers:
            try:
                now = value if reader is None else _field_value(name, reader.read().reveal())
            except (SourceFailed, UsageError) as failed:
                raise OSError(5, f"--header {name}: {failed.args[0]}") from None
            fields.append((name, now))
        return fields


def _field_value(name: str, secret: bytes) -> str:
    text = secret.decode("latin-1")
    if not text.isascii() or not text.isprintable():
        raise UsageError(f"--header {name}: its secret can't be the value of a field")
    return text
