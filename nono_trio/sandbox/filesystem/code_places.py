"""The paths that our own code is loaded from, in this process and at the start of the next one.

Rules of this file: a place is a path without symlinks. Also protected are: each symlink on the way
to it, because replacing one changes the target; every other path that a bind mount gives it; and
missing files that Python would load if they existed (a zip of the standard library, a pyvenv.cfg, a
sitecustomize.py). For these, the names in their directory must not change.
"""

from __future__ import annotations

import os
import site
import sys
from typing import TYPE_CHECKING, Literal

import msgspec

import nono_trio
from nono_trio import startup
from nono_trio.posix.paths import ancestors, is_below
from nono_trio.sandbox.filesystem.keyring_places import code_directories
from nono_trio.sandbox.filesystem.mount_table import MountTable
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_PACKAGE = os.path.dirname(os.path.abspath(nono_trio.__file__))
_SITE_NAMES = frozenset({"site-packages", "dist-packages"})
# Every interpreter imports these at its start, if they exist.
_CUSTOMIZED = ("sitecustomize", "usercustomize")


class CodePlace(msgspec.Struct, frozen=True):
    """A path that no command may change.

    `whole`: with everything below it; `names`: a directory whose own names must not change;
    `searched`: a directory in which Python also searches modules, after the standard library.
    """

    path: str
    kind: Literal["whole", "names", "searched"]

    def refuses(self, real: str) -> bool:
        """Tell whether this place forbids writing at and below `real`, a path without symlinks."""
        if real == self.path:
            return True
        if not is_below(real, self.path):
            return False
        if self.kind == "searched":
            return can_be_imported(os.path.relpath(real, self.path), first=False)
        return self.kind == "whole"


def code_places() -> list[CodePlace]:
    """Return every place of our own code, without places inside another whole one."""
    found: dict[CodePlace, None] = {}
    for path in dict.fromkeys(_whole_paths()):
        found.update(dict.fromkeys(_places_of(path)))
    for path in startup.beginning().search_path:
        found.update(dict.fromkeys(_names_of(path, "searched")))
    for path in dict.fromkeys(_start_directories()):
        found.update(dict.fromkeys(_names_of(path, "names")))
    for path in code_directories(os.environ):
        found.update(dict.fromkeys(_places_of(path)))
    for path in startup.mapped_files():  # these paths have no symlinks
        found[CodePlace(path, "whole")] = None
        found[CodePlace(os.path.dirname(path), "names")] = None
    mounts = MountTable.read()
    named = (
        CodePlace(name, place.kind)
        for place in _outermost(found)
        for name in mounts.names(place.path)
    )
    return _outermost(dict.fromkeys(named))


def _outermost(places: Collection[CodePlace]) -> list[CodePlace]:
    """Leave out places inside a whole one."""
    whole = {place.path for place in places if place.kind == "whole"}
    return [
        place
        for place in places
        if whole.isdisjoint(list(ancestors(place.path))[1:])
        and (place.kind == "whole" or place.path not in whole)
    ]


def can_be_imported(relative: str, *, first: bool) -> bool:
    """Tell whether `relative`, a path in a module directory, may become an imported module.

    Counted are the modules that we import and those of an interpreter's start. `first`: the
    directory is searched before the standard library.
    """
    name = relative.split("/", 1)[0].split(".", 1)[0]
    if name in (*startup.DEPENDENCIES, *_CUSTOMIZED, "nono_trio", "__pycache__"):
        return True
    if name not in sys.stdlib_module_names:
        return False
    # Some modules of the standard library are missing: those of other systems (nt), or left out.
    return first or not startup.is_standard_module(name)


def linked_files() -> list[str]:
    """Return the files of our package and its dependencies that are hard links.

    Writing the other name, in a cache for instance, changes our code.
    """
    found = []
    for path in (_PACKAGE, *startup.dependency_paths(sys.path)):
        if os.path.isfile(path):
            found.append(path)
        for directory, _, names in os.walk(path):
            found += [os.path.join(directory, name) for name in names]
    return [path for path in found if _has_two_names(path)]


def _has_two_names(path: str) -> bool:
    try:
        return os.lstat(path).st_nlink > 1
    except OSError:  # removed since
        return False


def names_on_the_way(path: str) -> Iterator[CodePlace]:
    """Yield the directory of each symlink on the way of `path`, which is absolute."""
    for link in follow(path).links:
        yield CodePlace(os.path.dirname(link), "names")


def absent(path: str) -> CodePlace:
    """Return the place of a missing path: the nearest existing directory."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return CodePlace(path, "names")


def _names_of(path: str, kind: Literal["names", "searched"]) -> Iterator[CodePlace]:
    yield from names_on_the_way(path)
    real = os.path.realpath(path)
    yield CodePlace(real, kind) if os.path.isdir(real) else absent(real)


def _places_of(path: str) -> Iterator[CodePlace]:
    yield from names_on_the_way(path)
    real = os.path.realpath(path)
    yield CodePlace(real, "whole") if os.path.exists(real) else absent(real)


def _whole_paths() -> Iterator[str]:
    yield _PACKAGE
    yield os.path.dirname(os.__file__)
    yield sys.executable
    if sys.prefix != sys.base_prefix:
        yield sys.prefix
    searched = [*sys.path, *startup.beginning().search_path]
    yield from startup.standard_directories(searched)
    if startup.is_command():
        yield from (entry for entry in sys.path if os.path.isabs(entry))
    yield from (path for path in searched if os.path.basename(path) in _SITE_NAMES)
    if startup.beginning().user_site:
        yield site.getusersitepackages()


def _start_directories() -> Iterator[str]:
    """Yield the directories of pyvenv.cfg and pybuilddir.txt, which locate the standard library."""
    for executable in (sys.executable, os.path.realpath(sys.executable)):
        yield os.path.dirname(executable)
        yield os.path.dirname(os.path.dirname(executable))
