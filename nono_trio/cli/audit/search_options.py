"""Options that `audit search` and `audit hosts` share, and the query that they make."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from nono_trio.cli.parameters import GivenText

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.search.query import SearchQuery
    from nono_trio.core.log.events import Decision

    Command = TypeVar("Command", bound="Callable[..., Any]")

host_option = click.option(
    "--host",
    type=GivenText("a host"),
    metavar="GLOB",
    help="HOST[:PORT], for example '*.example.com'; also the address that was dialled.",
)
searched_path_option = click.option(
    "--path",
    type=GivenText("a path"),
    metavar="GLOB",
    help="Files that were asked for, and paths of requests; all below a path without wildcards.",
)
program_option = click.option(
    "--program",
    type=GivenText("a program"),
    metavar="GLOB",
    help="Programs by name, path or script: curl, '/opt/tools/*', agent.py.",
)
in_session_option = click.option(
    "--session", type=GivenText("a session"), metavar="SESSION", help="Only this session."
)


def time_options(command: Command) -> Command:
    """Add --since and --until."""
    since = click.option("--since", metavar="T", help="At T or later: a day, a time, an age (7d).")
    until = click.option("--until", metavar="T", help="At T or earlier.")
    return since(until(command))


def make_query(
    host: str | None,
    path: str | None = None,
    program: str | None = None,
    decision: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> SearchQuery:
    """Return the query of the options; raises UsageError."""
    from nono_trio.audit.search.patterns import PathGlob, ProgramGlob, TextGlob, parse_host_glob
    from nono_trio.audit.search.query import SearchQuery
    from nono_trio.cli.times import parse_since, parse_until

    return SearchQuery(
        host=None if host is None else parse_host_glob(host),
        path=None if path is None else PathGlob(TextGlob(os.path.expanduser(path))),
        program=None if program is None else ProgramGlob(TextGlob(program)),
        decision=cast("Decision | None", decision),
        since=None if since is None else parse_since(since),
        until=None if until is None else parse_until(until),
    )
