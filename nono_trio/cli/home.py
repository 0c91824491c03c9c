"""`nono-trio home`: the kept homes of cages, listed and removed. Nothing here imports the loop."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.parts import Column
from nono_trio.cli.shared_flags import json_option
from nono_trio.cli.tables import print_table
from nono_trio.cli.text import ago, clean, size_text
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import JSON_SCHEMA
from nono_trio.posix.paths import homes_root
from nono_trio.session.homes.kept_homes import Homes

if TYPE_CHECKING:
    from nono_trio.session.homes.home_store import StoredHome

# A home's name is what `home remove` takes: it is never cut.
_COLUMNS = (
    Column("NAME", flexible="fold"),
    Column("IN USE", leaves=3),
    Column("FILES", right=True, leaves=2),
    Column("SIZE", right=True),
    Column("USED", leaves=4),
    Column("PROFILE", flexible="cut", leaves=1),
    Column("DIRECTORY", flexible="fold", leaves=5),
)


@click.group()
def home() -> None:
    """List and remove the homes that cages keep: logins, caches and settings of commands.

    `run --home kept` (the default of the profiles for development and agents) gives a command the
    home of its profile, working directory and isolation. Only cages see it.
    """


@home.command("list", short_help="List the homes.", epilog="Example: nono-trio home list --json")
@json_option
def list_homes(as_json: bool) -> None:
    """List the homes there are: what they are for, how much they hold, when they were last used."""
    homes = Homes(homes_root(os.environ))
    with Waiting("counting files"):
        found = homes.listed()
    if as_json:
        print_json(
            {"schema": JSON_SCHEMA, "root": homes.root, "homes": [_fields(one) for one in found]}
        )
        return
    if not found:
        say(f"no home in {clean(homes.root)}")
        return
    print_table(_COLUMNS, [*map(_row, found)])


@home.command(
    short_help="Remove a home.", epilog="Example: nono-trio home remove claude-code-app-0123456789"
)
@click.argument("name", metavar="NAME")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a home with all that is in it; not while a session has it.

    NAME is as `home list` shows it, its ending left out where only one fits.
    """
    removed = Homes(homes_root(os.environ)).remove(name)
    if as_json:
        print_json({"schema": JSON_SCHEMA, "removed": removed})
    else:
        say(f"home {removed} is removed")


def _row(stored: StoredHome) -> tuple[str, ...]:
    facts, content = stored.facts, stored.content
    at_least = "" if content.whole else ">"
    return (
        stored.name,
        "yes" if stored.in_use else "-",
        f"{at_least}{content.files:,}",
        f"{at_least}{size_text(content.size)}",
        _used_text(stored),
        clean(facts.profile) if facts else "?",
        clean(facts.directory) if facts else "?",
    )


def _used(stored: StoredHome) -> datetime | None:
    """When it was last used; None for a time that no calendar has (a command may set it)."""
    try:
        return datetime.fromtimestamp(stored.last_used, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _used_text(stored: StoredHome) -> str:
    used = _used(stored)
    try:
        return "?" if used is None else ago(used, datetime.now(UTC))
    except (ValueError, OverflowError, OSError):  # the year 1, in local time
        return "?"


def _fields(stored: StoredHome) -> dict[str, object]:
    facts, content, used = stored.facts, stored.content, _used(stored)
    return {
        "name": stored.name,
        "in_use": stored.in_use,
        "files": content.files,
        "bytes": content.size,
        "counted_whole": content.whole,
        "last_used": used.isoformat(timespec="seconds") if used is not None else None,
        "profile": facts.profile if facts else None,
        "directory": facts.directory if facts else None,
        "isolation": stored.name.rpartition(".")[2],
        "created": facts.created if facts else None,
        "copied_from": facts.copied_from if facts else None,
        "seeded": facts.seeded if facts else [],
    }
