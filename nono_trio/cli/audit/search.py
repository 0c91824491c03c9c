"""`nono-trio audit search`: records of all sessions that fit patterns, one line each.

Rules of this file: results go out as they are found; what a person must know about the sessions is
said after them, on stderr. Finding nothing is a result (exit code 0). A session that can't be read
is an error (2), because the record may be in it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nono_trio.cli.audit.search_notes import note_missing, tell_report
from nono_trio.cli.audit.search_options import (
    host_option,
    in_session_option,
    make_query,
    program_option,
    searched_path_option,
    time_options,
)
from nono_trio.cli.json_output import print_json
from nono_trio.cli.parameters import OneOf, WholeNumber
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_location,
    chosen_sessions,
    json_option,
    no_pager_option,
)
from nono_trio.cli.style import is_styled, painted_word
from nono_trio.cli.text import MAX_DETAIL, clean, moment_text, shorten, target_text, utc_text
from nono_trio.core.log.file_events import access_word
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.audit.search.query import SearchedRecord
    from nono_trio.audit.search.search import Match

DECISIONS = (
    "allow", "deny", "approve_requested", "approve_granted", "approve_denied", "approve_timeout",
    "approve_error",
)  # fmt: skip
MAX_RESULTS = 10_000
TARGET_WIDTH = 28  # what is longer moves the rest of its line
MAX_PROGRAM = 60


@click.command(
    short_help="Find records in all sessions.",
    epilog="Example: nono-trio audit search --host '*.example.com' --decision deny --since 7d",
)
@host_option
@searched_path_option
@program_option
@click.option("--decision", type=OneOf(DECISIONS), help="Only these decisions.")
@time_options
@in_session_option
@click.option(
    "-n", "count", type=WholeNumber(1, MAX_RESULTS), metavar="N", help="Only the newest N of them."
)
@no_pager_option
@json_option
@audit_dir_option
def search(
    host: str | None, path: str | None, program: str | None, decision: str | None,
    since: str | None, until: str | None, session: str | None, count: int | None,
    no_pager: bool, as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """Find records in all sessions, live ones too: the newest session first, its records in order.

    In a GLOB `*` is any text and `?` one character. A record must fit every option; without
    options all are found. Sessions are not verified here; tampered ones are named.

    Exit code: found, or nothing found 0; a session can't be read 2. --json prints one object a
    record, a line each, and no line if nothing is found.
    """
    from nono_trio.audit.search.search import search as search_sessions
    from nono_trio.audit.search.searched_sessions import SearchReport
    from nono_trio.cli.pager import output_is_open, paged, require_reader
    from nono_trio.cli.waiting import Waiting

    query = make_query(host, path, program, decision, since, until)
    root = audit_location(audit_dir)
    chosen = chosen_sessions(root, session)
    if count is not None and isinstance(root, str) and session is None:
        raise UsageError(
            "-n: which sessions at a URL are the newest is not known before they are read",
            hint="--since 7d leaves out what is older; or name one session with --session",
        )
    report, found = SearchReport(), 0
    show = _print_json if as_json else _print_line
    with (
        Waiting("searching") as wait,
        paged(wanted=not no_pager and not as_json, on_start=wait.finish),
    ):
        results = search_sessions(
            Path(root), query, report, sessions=chosen, newest=count, goes_on=output_is_open
        )
        for match in wait.over(results):
            found += 1
            show(match)
        require_reader()
    sys.stdout.flush()
    note_missing(report, chosen)
    raise SystemExit(tell_report(report, root, found))


def _print_line(match: Match) -> None:
    print(" ".join(_cells(match)).rstrip(), flush=True)


def _cells(match: Match) -> Iterator[str]:
    record = match.record
    decision = f"{clean(record.decision):<5}"
    yield moment_text(record.unix_ms)
    yield f" {clean(match.session_id):<16} "
    yield painted_word(decision) if is_styled(sys.stdout) else decision
    yield f" {_target(record):<{TARGET_WIDTH}}"
    for part in _details(match):
        yield f" {part}"


def _target(record: SearchedRecord) -> str:
    if record.host is None:
        return shorten(clean(record.path or "-"), MAX_DETAIL)
    return target_text(record.host, record.port)


def _details(match: Match) -> Iterator[str]:
    record = match.record
    if record.kind == "file":
        yield access_word(record.access or "Read")
        if record.real_path is not None:
            yield f"-> {shorten(clean(record.real_path), MAX_DETAIL)}"
    elif record.host is not None and record.path is not None:
        yield shorten(clean(f"{record.method or '-'} {record.path}"), MAX_DETAIL)
    elif record.method is not None:
        yield "look-up" if record.method == LOOK_UP else clean(record.method)
    if record.status is not None:
        yield f"status {record.status}"
    if match.programs:
        names = ", ".join(shorten(clean(one.name), MAX_PROGRAM) for one in match.programs)
        yield f"by {names}"
    elif record.pid:
        yield f"by pid {record.pid}"
    for text in (record.rule and f"rule {record.rule}", record.reason or record.category):
        if text:
            yield shorten(clean(text), MAX_DETAIL)


def _print_json(match: Match) -> None:
    from nono_trio.cli.answers import SearchAnswer, SearchProgram

    record = match.record
    print_json(
        SearchAnswer(
            session_id=match.session_id,
            session_name=match.session_name,
            session_status=match.status,
            sequence=record.sequence,
            time=utc_text(record.unix_ms),
            kind=record.kind,
            decision=record.decision,
            host=record.host,
            port=record.port,
            method=record.method,
            path=record.path,
            real_path=record.real_path,
            access=record.access,
            status=record.status,
            rule=record.rule,
            category=record.category,
            reason=record.reason,
            pid=record.pid,
            programs=[
                SearchProgram(
                    name=one.name, exe=one.exe, argv=None if one.argv is None else [*one.argv]
                )
                for one in match.programs
            ],
        )
    )
