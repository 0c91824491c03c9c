"""`nono-trio profile`: list, show, validate and begin profiles.

The commands' options and the order of their output; how a profile is written out is in
profile_render.py. Nothing here imports the loop, the proxy or the cage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from nono_trio.cli.group import CommandGroup
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.parameters import PATH
from nono_trio.cli.parts import Column
from nono_trio.cli.shared_flags import json_option
from nono_trio.cli.tables import is_drawn, print_table
from nono_trio.cli.text import clean, counted, shorten
from nono_trio.config import profiles
from nono_trio.config.user_paths import profile_directory
from nono_trio.core.late import late_pattern
from nono_trio.errors import JSON_SCHEMA, NonoTrioError, UsageError, path_hint
from nono_trio.posix.owner import as_owner_of_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.config.profiles import Found
    from nono_trio.core.profile.parser import Fault

INVALID = 2
MAX_DESCRIPTION = 100
_COLUMNS = (
    Column("NAME"),
    Column("SOURCE", leaves=1),
    Column("DESCRIPTION", flexible="fold"),
)
_NAME = late_pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@click.group(cls=CommandGroup)
def profile() -> None:
    """List, show, check and begin profiles: what `-p NAME|FILE` starts a cage from.

    Yours are the .toml and .json files of $XDG_CONFIG_HOME/nono-trio/profiles; one that has the
    name of a built-in profile shadows it, and may extend it.
    """


@profile.command(
    "list",
    short_help="List the profiles there are.",
    epilog="Example: nono-trio profile list --json",
)
@json_option
def list_profiles(as_json: bool) -> None:
    """List the profiles there are, yours first: name, source, description."""
    rows = [_row(found) for found in profiles.available(os.environ)]
    names = {row["name"] for row in rows if row["source"] == "user"}
    for row in rows:
        row["shadowed"] = row["source"] == "built-in" and row["name"] in names
    if as_json:
        print_json({"schema": JSON_SCHEMA, "profiles": rows})
        return
    cells = [(clean(str(row["name"])), str(row["source"]), _about(row)) for row in rows]
    if is_drawn():
        print_table(_COLUMNS, cells)
        return
    width = max(len(str(row["name"])) for row in rows)
    for name, source, text in cells:
        print(f"{name:<{width}}  {source:<8}  {text}")


def _about(row: Mapping[str, object]) -> str:
    text = row["description"] or ""
    if row["error"]:
        text = f"broken: {row['error']}"
    elif row["shadowed"]:
        text = "(yours of that name shadows it)"
    return shorten(clean(str(text)), MAX_DESCRIPTION)


def _row(found: Found) -> dict[str, object]:
    row: dict[str, object] = {
        "name": found.name,
        "source": found.source,
        "path": str(found.path),
        "description": None,
        "extends": [],
        "error": None,
    }
    try:
        own = profiles.load_found(found, os.environ).sourced.profile
    except NonoTrioError as error:
        return row | {"error": error.message}
    return row | {"description": own.meta.description, "extends": own.bases}


@profile.command(
    short_help="Show what a profile comes to.", epilog="Example: nono-trio profile show claude-code"
)
@click.argument("name", metavar="NAME|FILE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what a profile comes to with everything it extends, and the line of each entry.

    The output is itself a profile. Variables and groups stay as they are written; what
    package_registries means on this machine is shown beside it.
    """
    from nono_trio.cli.profile_render import profile_fields, profile_lines

    loaded = profiles.load(name, os.environ)
    if as_json:
        print_json({"schema": JSON_SCHEMA, **profile_fields(loaded)})
        return
    for line in profile_lines(loaded):
        print(line)


@profile.command(
    short_help="Check a profile, and say all that is wrong with it.",
    epilog="Example: nono-trio profile validate ./agent.toml",
)
@click.argument("file", metavar="FILE|NAME")
@json_option
def validate(file: str, as_json: bool) -> None:
    """Check a profile and what it extends, and say all that is wrong with it.

    Exit code: 0 valid, 2 not valid.
    """
    faults, broken = _faults_of(file)
    if as_json:
        told = [msgspec.to_builtins(fault) for fault in faults]
        if broken is not None:
            told = [{"message": broken.message, "hint": broken.hint}]
        print_json({"schema": JSON_SCHEMA, "file": file, "valid": not told, "errors": told})
    elif broken is not None:
        raise broken
    else:
        _tell_faults(file, faults)
    if faults or broken:
        raise SystemExit(INVALID)


def _faults_of(file: str) -> tuple[Sequence[Fault], NonoTrioError | None]:
    """Return the faults of one file; without any, the error of merging it with its bases."""
    try:
        found = profiles.find(file, os.environ)
        reading = profiles.read(found)
        if not reading.faults:
            profiles.load_found(found, os.environ)
    except NonoTrioError as error:
        return (), error
    return reading.faults, None


def _tell_faults(file: str, faults: Sequence[Fault]) -> None:
    for fault in faults:
        print(clean(fault.text))
        if fault.hint:
            print(f"  hint: {clean(fault.hint)}")
    if faults:
        sys.stdout.flush()
        say(f"{clean(file)}: {counted(len(faults), 'error')}")
    else:
        print(f"{clean(file)}: valid")


@profile.command(
    short_help="Begin a profile of your own.",
    epilog="Example: nono-trio profile init my-agent --extends python-dev",
)
@click.argument("name", metavar="NAME")
@click.option(
    "--extends",
    multiple=True,
    metavar="NAME|FILE",
    help="Profiles that it extends  [default: default]. Repeatable.",
)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="Write it there instead of among your own."
)
@json_option
def init(name: str, extends: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Begin a profile of your own: a file with every key, commented, ready to be edited.

    Never replaces a file.
    """
    from nono_trio.cli.profile_render import template

    if not _NAME.fullmatch(name):
        raise UsageError(
            f"expected a name of letters, digits, - and _, got {name!a}",
            hint="for example my-agent; -o says where the file goes",
        )
    if output is not None and not output.endswith(".toml"):
        raise UsageError(f"--output: expected a name that ends in .toml, got {output!a}")
    for base in extends:
        profiles.load(base, os.environ)
    path = Path(output) if output else profile_directory(os.environ) / f"{name}.toml"
    _write_new(path, template(name, extends or ("default",)), make_directory=output is None)
    if as_json:
        print_json({"schema": JSON_SCHEMA, "name": name, "path": str(path)})
        return
    print(path)
    say(f"edit it, check it with `nono-trio profile validate {name if not output else path}`")


def _write_new(path: Path, text: str, *, make_directory: bool) -> None:
    try:
        with as_owner_of_path(path):
            if make_directory:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = path.open("x", encoding="utf-8")
            try:
                with made:
                    made.write(text)
            except OSError:  # the disk is full
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise UsageError(
            f"{path} is there already", hint="edit it, or choose another name"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} can't be written: {error.strerror or error}",
            hint=path_hint(path.parent, error, "its directory"),
        ) from error
