"""`nono-trio audit hosts`: who was talked to over all sessions, one row a host and port."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nono_trio.cli.audit.search_notes import note_missing, tell_report
from nono_trio.cli.audit.search_options import (
    host_option,
    in_session_option,
    make_query,
    time_options,
)
from nono_trio.cli.json_output import print_json
from nono_trio.cli.parameters import OneOf
from nono_trio.cli.parts import Column
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_location,
    chosen_sessions,
    json_option,
    no_pager_option,
)
from nono_trio.cli.tables import print_table
from nono_trio.cli.text import MIN_LAST, ago, clean, size_text, target_text, time_of, utc_text

if TYPE_CHECKING:
    from nono_trio.audit.search.hosts_seen import HostSeen, HostsSeen
    from nono_trio.cli.answers import HostRow, HostsAnswer

OUTCOMES = {"allow": "allowed", "deny": "denied", "fail": "failed"}
OTHERS = "(other hosts)"

COLUMNS = (
    Column("HOST", flexible="cut", least=20),
    Column("ALLOW", right=True),
    Column("DENY", right=True, denials=True),
    Column("FAIL", right=True, leaves=2),
    Column("UP", right=True, leaves=6),
    Column("DOWN", right=True, leaves=5),
    Column("SESSIONS", right=True, leaves=3),
    Column("FIRST", leaves=1),
    Column("LAST", leaves=7),
    Column("PROGRAMS", flexible="cut", leaves=4, least=MIN_LAST),
)


@click.command(
    short_help="List the hosts that sessions tried or talked to.",
    epilog="Example: nono-trio audit hosts --since 7d --decision deny",
)
@host_option
@click.option("--decision", type=OneOf([*OUTCOMES]), help="Only hosts with such attempts.")
@time_options
@in_session_option
@no_pager_option
@json_option
@audit_dir_option
def hosts(
    host: str | None, decision: str | None, since: str | None, until: str | None,
    session: str | None, no_pager: bool, as_json: bool, audit_dir: str | None,
) -> None:  # fmt: skip
    """List each host and port over all sessions: attempts, bytes, first and last time, programs.

    Hosts that were reached come first, those with the most bytes at the top; then those that were
    only denied. Numbers are attempts, as `audit list` and `audit show` count them.

    Exit code: 0; a session can't be read 2.
    """
    from nono_trio.audit.search.hosts_seen import hosts_seen
    from nono_trio.audit.search.searched_sessions import SearchReport
    from nono_trio.cli.pager import output_is_open, paged, require_reader
    from nono_trio.cli.waiting import Waiting

    query = make_query(host, since=since, until=until)
    root = audit_location(audit_dir)
    chosen = chosen_sessions(root, session)
    report = SearchReport()
    with Waiting("reading the sessions"):
        seen = hosts_seen(Path(root), query, report, sessions=chosen, goes_on=output_is_open)
    require_reader()
    rows = [row for row in seen.by_weight() if decision is None or _has(row, decision)]
    if as_json:
        print_json(_answer(seen, rows, report.searched))
    elif rows or seen.has_others:
        with paged(wanted=not no_pager):
            _print_rows(seen, rows)
    sys.stdout.flush()
    note_missing(report, chosen)
    raise SystemExit(tell_report(report, root, len(rows) + seen.has_others))


def _has(row: HostSeen, decision: str) -> bool:
    count: int = getattr(row, OUTCOMES[decision])
    return count > 0


def _print_rows(seen: HostsSeen, rows: list[HostSeen]) -> None:
    now = datetime.now(UTC)
    cells = [_row(row, target_text(row.host, row.port), now) for row in rows]
    if seen.has_others:
        cells.append(_row(seen.others, OTHERS, now))
    print_table(COLUMNS, cells)


def _row(row: HostSeen, name: str, now: datetime) -> tuple[str, ...]:
    return (
        name,
        f"{row.allowed:,}",
        f"{row.denied:,}",
        f"{row.failed:,}",
        size_text(row.bytes_up) if row.connections else "-",
        size_text(row.bytes_down) if row.connections else "-",
        f"{row.sessions:,}",
        _ago(row.first_ms, now),
        _ago(row.last_ms, now),
        (", ".join(clean(one) for one in row.programs) or "-") + ", ..." * row.more_programs,
    )


def _ago(unix_ms: int | None, now: datetime) -> str:
    if unix_ms is None:
        return "-"
    time = time_of(unix_ms)
    return f"{unix_ms} ms" if time is None else ago(time, now)


def _answer(seen: HostsSeen, rows: list[HostSeen], sessions: int) -> HostsAnswer:
    from nono_trio.cli.answers import HostsAnswer

    others = _host_answer(seen.others) if seen.has_others else None
    return HostsAnswer(
        sessions=sessions, hosts=[_host_answer(row) for row in rows], other_hosts=others
    )


def _host_answer(row: HostSeen) -> HostRow:
    from nono_trio.cli.answers import HostRow

    return HostRow(
        host=row.host,
        port=row.port,
        first=utc_text(row.first_ms),
        last=utc_text(row.last_ms),
        allowed=row.allowed,
        denied=row.denied,
        failed=row.failed,
        connections=row.connections,
        bytes_up=row.bytes_up,
        bytes_down=row.bytes_down,
        sessions=row.sessions,
        programs=[*row.programs],
        more_programs=row.more_programs,
    )
