"""Directories and files from which the caller's variables make programs load code.

They must not be granted for writing. An interpreter that starts with such a variable loads code
from there before our first statement; so will the next nono-trio command. The caged command does
not get these variables, so unsetting them has no cost.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from nono_trio import startup
from nono_trio.errors import UsageError
from nono_trio.posix.paths import is_below, is_in
from nono_trio.sandbox.filesystem.code_places import can_be_imported, names_on_the_way

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nono_trio.sandbox.filesystem.grant import Grant
    from nono_trio.startup import Beginning

_LISTS = {
    "PYTHONPATH": ":", "PYTHONHOME": ":", startup.LIBRARY_PATH: ":;", "LD_PRELOAD": ": ",
    "LD_AUDIT": ":", "GCONV_PATH": ":", "LOCPATH": ":", "NLSPATH": ":",
}  # fmt: skip
_LIBRARIES = frozenset({"LD_PRELOAD", "LD_AUDIT"})  # without a slash the loader searches elsewhere


class Named(msgspec.Struct, frozen=True):
    """A path (absolute, as named), its variable, and whether Python searches modules in it."""

    path: str
    variable: str | None
    modules: bool = False

    def refuses(self, grant: Grant) -> bool:
        """Tell whether a command with this grant could put code here."""
        for path in {os.path.realpath(self.path), self.path}:
            if is_in(path, grant.real):
                return True
            if not is_below(grant.real, path):
                continue
            if not self.modules or can_be_imported(os.path.relpath(grant.real, path), first=True):
                return True
        return any(is_in(place.path, grant.real) for place in names_on_the_way(self.path))


def refuse_named(grants: Iterable[Grant]) -> None:
    """Raise UsageError for a grant for writing that covers a path of the caller's variables."""
    every = [*named_paths(startup.beginning())]
    for grant in grants:
        if grant.access == "read":
            continue
        for named in every:
            if named.refuses(grant):
                raise _refused(grant, named)


def named_paths(beginning: Beginning) -> Iterator[Named]:
    """Yield the paths that the variables name, relative and empty entries included."""
    if beginning.uses_working_directory:
        yield Named(os.getcwd(), None, modules=True)
    for variable, value in beginning.variables.items():
        for entry in _entries(variable, value):
            path = os.path.abspath(entry or ".")
            yield Named(path, variable, modules=variable == "PYTHONPATH")
            if variable == "PYTHONUSERBASE":
                version = f"python{sys.version_info.major}.{sys.version_info.minor}"
                yield Named(f"{path}/lib/{version}/site-packages", variable)


def _entries(variable: str, value: str) -> Iterator[str]:
    if not value:
        return
    separators = _LISTS.get(variable, "")
    for separator in separators[1:]:
        value = value.replace(separator, separators[0])
    for entry in value.split(separators[0]) if separators else [value]:
        if variable in _LIBRARIES and "/" not in entry:
            continue
        yield _constant_part(variable, entry)


def _constant_part(variable: str, entry: str) -> str:
    """Return the known part of an entry: the directory before its first placeholder."""
    if variable == "NLSPATH" and "%" in entry:
        return os.path.dirname(entry.partition("%")[0])
    if variable in (startup.LIBRARY_PATH, *_LIBRARIES):
        executable = os.path.dirname(os.path.realpath(sys.executable))
        for token in ("$ORIGIN", "${ORIGIN}"):
            entry = entry.replace(token, executable)
        if "$" in entry:
            return os.path.dirname(entry.partition("$")[0])
    return entry


def _refused(grant: Grant, named: Named) -> UsageError:
    if named.variable is None:
        return UsageError(
            f"{grant.source} {grant.path} would let the command write {named.path}, from which"
            " `python -m` loads nono-trio's code",
            hint="run it as `nono-trio`, or as `python -P -m nono_trio`",
        )
    return UsageError(
        f"{grant.source} {grant.path} would let the command write {named.path}, which"
        f" {named.variable} names as a place that programs load from",
        hint=f"unset it for the run: env -u {named.variable} nono-trio ...",
    )
