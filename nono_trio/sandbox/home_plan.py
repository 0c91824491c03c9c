"""The plan of a cage's home: its kind, its path, and the places of grants in it.

With a mount view the cage's home has the path of the real one, and grants are mounted into it.
Without one HOME names another directory, with a link to each grant; programs that use the account
database instead of HOME see the real home. If the real home itself is granted, the cage uses it.

This file only reads the disk: session/homes/kept_homes.py makes and opens homes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from nono_trio.core.policy.home_choice import FLAG, HomeChoice
from nono_trio.errors import UsageError
from nono_trio.posix.memory import memory_bytes
from nono_trio.posix.paths import could_be_directory, home_directory, is_below, is_in
from nono_trio.sandbox.filesystem.plan import PRIVATE
from nono_trio.sandbox.launcher.cage_plan import MountOp
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nono_trio.core.policy.home_choice import HomeKind
    from nono_trio.sandbox.filesystem.grant import Grant
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Isolation

PlaceKind: TypeAlias = Literal["directory", "file", "link"]

# A private home of the mount view is in memory and gets an eighth of it (or of `--memory`); with
# /tmp and /dev/shm full too, an eighth is left. It has room for logs, settings and a small cache; a
# command that needs more should run with `--home kept`, which is on disk.
_PRIVATE_SHARE = 8
# A file takes about a KiB of kernel memory that no size limit counts.
_BYTES_PER_FILE = 8 << 10
_FEWEST_FILES = 65_536

_XDG = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_OF_THE_SHELL = ("PWD", "OLDPWD")  # the current directory, not a place for files


class Place(msgspec.Struct, frozen=True):
    """A path (without symlinks) in the cage's home at which a grant appears.

    `kind` is what must be made there; `target` is that of a link.
    """

    path: str
    kind: PlaceKind
    target: str = ""

    @property
    def names(self) -> list[str]:
        """The parts of the path."""
        return self.path.split("/")


class HomePlan(msgspec.Struct, frozen=True):
    """The planned home of a cage; `why_closed` says why a wanted home is missing.

    `real` is the real home without symlinks; `moved`: HOME names another directory.
    """

    kind: HomeKind
    source: str
    real: str
    moved: bool
    places: tuple[Place, ...] = ()
    why_closed: str = ""

    def __bool__(self) -> bool:
        return self.kind != "closed"


def plan_home(
    choice: HomeChoice, files: FilePlan, isolation: Isolation, *, sandbox: bool
) -> HomePlan:
    """Return the home of a run; raises UsageError if flags contradict each other."""
    given = os.path.normpath(home_directory())
    real = os.path.realpath(given)
    grants = [(grant, grant.real) for grant in (*files.grants, *files.sockets)]
    moved = isolation != "namespace"
    why = _why_closed(choice, grants, real, sandbox=sandbox)
    if why is not None:
        return HomePlan("closed", choice.source, real, moved, why_closed=why)
    places = _links(grants, given, real) if moved else _mount_points(grants, given, real)
    return HomePlan(choice.kind, choice.source, real, moved, tuple(places))


def _why_closed(
    choice: HomeChoice, grants: Sequence[tuple[Grant, str]], home: str, *, sandbox: bool
) -> str | None:
    """Return the reason for a cage without a home of its own, None for a cage with one."""
    if choice.kind == "closed":
        return "asked for"
    if not sandbox:
        return _contradiction(choice, "--no-sandbox", "the file sandbox is off (--no-sandbox)")
    if home in ("/", *PRIVATE) or is_in(home, "/proc") or not could_be_directory(home):
        return _contradiction(choice, f"HOME={home}", f"{home} is no home")
    for grant, real in grants:
        source = f"{grant.source} {grant.path}"
        if real == home:
            return _contradiction(choice, source, f"the real one is granted: {source}")
        # A grant of a directory around it shows the real home, unless the user chose another.
        if is_below(home, real) and (not choice.source or not os.path.isdir(home)):
            return f"the real one is granted: {source}"
    return None


def _contradiction(choice: HomeChoice, flag: str, why: str) -> str:
    if choice.by_flag:
        raise UsageError(
            f"{FLAG} {choice.kind} and {flag} contradict each other: {why}",
            hint="leave out one of the two",
        )
    return why


def _mount_points(grants: Sequence[tuple[Grant, str]], given: str, home: str) -> Iterator[Place]:
    """Yield the mount points below the home, and the symlinks on the way to them."""
    found: dict[str, Place] = {}
    for grant, real in grants:
        if is_below(grant.path, given) or is_below(grant.path, home):
            for link, text in _links_on_the_way(grant.path):
                if is_below(link, home):
                    path = os.path.relpath(link, home)
                    found[path] = Place(path, "link", text)
        if is_below(real, home):
            path = os.path.relpath(real, home)
            found[path] = Place(path, "file" if grant.is_file else "directory")
    yield from sorted(found.values(), key=lambda place: (len(place.names), place.path))


def _links_on_the_way(path: str) -> Iterator[tuple[str, str]]:
    """Yield the symlinks that a path leads through and their texts, each by its own real path."""
    targets: dict[str, str | None] = {}
    for link in follow(path, targets).links:
        yield link, targets[link] or ""


def _links(grants: Sequence[tuple[Grant, str]], given: str, home: str) -> Iterator[Place]:
    """Yield a link for each grant that is named below the home or lies there, upper ones first."""
    found: dict[str, Place] = {}
    for grant, real in grants:
        for base, path in ((given, grant.path), (home, grant.path), (home, real)):
            if is_below(path, base):
                inside = os.path.relpath(path, base)
                found.setdefault(inside, Place(inside, "link", real))
    linked: list[str] = []
    for place in sorted(found.values(), key=lambda place: (len(place.names), place.path)):
        if not any(
            is_below(place.path, above) for above in linked
        ):  # that link leads to it already
            linked.append(place.path)
            yield place


def home_variables(
    environment: Mapping[str, str], plan: HomePlan, home: str, files: FilePlan
) -> dict[str, str]:
    """Return `environment` for a cage with its home at `home`.

    A path below the real home that is not granted becomes the same path below the cage's home. An
    XDG directory elsewhere that is not granted is removed, so its default in the home applies.
    """
    changed = dict(environment)
    for name, value in environment.items():
        if not value.startswith("/") or ":" in value or name in _OF_THE_SHELL:
            continue
        inside = _below(os.path.normpath(value), plan.real)
        if inside is None and name in _XDG and files.covers(value, "read") is None:
            del changed[name]
        elif inside is not None and plan.moved and files.covers(value, "read") is None:
            changed[name] = os.path.join(home, inside)
    changed["HOME"] = home
    return changed


def _below(path: str, real: str) -> str | None:
    """Return the path relative to the home, None for a path outside of it."""
    for home in (real, os.path.normpath(home_directory())):
        if is_below(path, home):
            return os.path.relpath(path, home)
    return None


def home_mount(
    plan: HomePlan, kept: str | None, memory: int | None, work: str = ""
) -> MountOp | None:
    """Return the mount of the home: the directory `kept`, or with None an empty home in memory.

    None without a view or without a home. `memory`: the limit of the cage in bytes. `work`: the
    name of an empty directory beside `kept`.
    """
    if not plan or plan.moved:
        return None
    if kept is not None:
        return MountOp("kept_home", plan.real, source=kept, work=work)
    whole = memory_bytes()
    size = min(whole, memory or whole) // _PRIVATE_SHARE
    files = max(size // _BYTES_PER_FILE, _FEWEST_FILES)
    return MountOp("empty_home", plan.real, size=size, files=files)
