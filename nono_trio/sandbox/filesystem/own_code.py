"""Code that a later run executes: our own package, installers' caches, programs in $PATH.

A command that can write these controls the next cage, or escapes it. Inside a grant for writing,
our code and the caches of installers are mounted read-only. A missing file can't be mounted, so
such a grant is refused; without mounts it is refused too. A directory of programs only causes a
warning, because installing programs is a usual task of a command.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from nono_trio.errors import UsageError
from nono_trio.posix.paths import home_directory, is_below, is_in
from nono_trio.sandbox.filesystem.code_places import CodePlace, code_places
from nono_trio.sandbox.filesystem.installer_caches import installer_caches
from nono_trio.sandbox.filesystem.named_directories import refuse_named
from nono_trio.startup import caller_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.sandbox.filesystem.grant import Grant
    from nono_trio.sandbox.filesystem.installer_caches import Cache

_LIFT = "--bypass-protection"
# The hint for our code inside a project.
_ELSEWHERE = "install nono-trio outside of it: pipx install nono-trio, or uv tool install nono-trio"
# The hint for an installer's cache.
_HOME = "with --home kept it has a cache of its own"
_MOST_NAMED = 3  # in one warning: an interpreter inside a grant has a dozen


def program_paths() -> list[str]:
    """Return the paths of our own code and of caches that a flag may lift, without duplicates."""
    caches = [cache.path for cache in _caches()]
    return list(dict.fromkeys([*(place.path for place in code_places()), *_real(caches)]))


def kept_paths(grants: Iterable[Grant], lifted: Sequence[str], can_cover: bool) -> dict[str, Grant]:
    """Return the paths of our code inside grants for writing, each with its grant.

    They must be mounted read-only. Raises UsageError for a grant inside our code, and for a grant
    of a directory from which the caller's variables make programs load code.
    """
    writing = [grant for grant in grants if grant.access != "read"]
    if not writing:
        return {}
    refuse_named(writing)
    places = [place for place in code_places() if place.path not in lifted]
    kept: dict[str, Grant] = {}
    for grant in writing:
        for place in places:
            if place.refuses(grant.real):
                raise _refused(grant, *_write(place), instead=_ELSEWHERE)
            if not is_below(place.path, grant.real):
                continue
            if not can_cover:
                raise _refused(grant, *_write(place), instead=_ELSEWHERE)
            kept[place.path] = grant
        kept |= _kept_caches(grant, lifted, can_cover)
    return {
        path: grant for path, grant in kept.items() if not any(is_below(path, one) for one in kept)
    }


def _kept_caches(grant: Grant, lifted: Sequence[str], can_cover: bool) -> dict[str, Grant]:
    """Return the installers' caches inside `grant`; raises UsageError as `kept_paths`."""
    kept = {}
    for cache in _caches():
        (real,) = _real([cache.path])
        if real in lifted:
            continue
        what = f"write {real}, from which {cache.installer} installs programs"
        if is_in(grant.real, real):
            raise _refused(grant, what, real, instead=_HOME)
        if not is_below(real, grant.real) or not cache.is_used:
            continue
        if not can_cover:
            raise _refused(grant, what, real, instead=_HOME)
        if not os.path.exists(real):
            raise _refused(grant, what, real, f"make it first (mkdir -p {shlex.quote(real)})")
        kept[real] = grant
    return kept


def _caches() -> list[Cache]:
    return installer_caches(caller_environment(), home_directory())


def _real(paths: Iterable[str]) -> list[str]:
    return [os.path.realpath(path) for path in paths]


def _write(place: CodePlace) -> tuple[str, str]:
    if place.kind == "whole":
        return f"write {place.path}, which is nono-trio's own code", place.path
    return f"create files in {place.path}, from which nono-trio's Python imports", place.path


def _refused(
    grant: Grant, what: str, path: str, instead: str = "grant directories beside it"
) -> UsageError:
    return UsageError(
        f"{grant.source} {grant.path} would let the command {what}",
        hint=f"{instead}, or lift this with {_LIFT} {shlex.quote(path)}",
    )


def kept_warnings(kept: dict[str, Grant]) -> Iterator[str]:
    """Yield warnings about read-only paths inside grants for writing, with a hint."""
    caches = _real(cache.path for cache in _caches())
    for path, grant in kept.items():
        if path in caches:
            yield f"{path} stays read-only inside {grant.source} {grant.path}: {_HOME}"
    for grant in dict.fromkeys(kept.values()):
        paths = [path for path, one in kept.items() if one == grant and path not in caches]
        if not paths:
            continue
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        yield (
            f"{', '.join(paths[:_MOST_NAMED])}{more}: nono-trio's own code, which stays read-only"
            f" inside {grant.source} {grant.path} (to write there, {_ELSEWHERE}, or lift this with"
            f" {_LIFT} {shlex.quote(paths[0])})"
        )


def search_path_warnings(
    grants: Iterable[Grant], directory: str, kept: Iterable[str]
) -> Iterator[str]:
    """Yield warnings about directories of $PATH that the command may write.

    Directories inside `directory`, where the command works, are excepted: the user expects a
    project's own programs there.
    """
    own = [os.path.realpath(directory), *kept]
    for given in dict.fromkeys(os.environ.get("PATH", "").split(":")):
        real = os.path.realpath(given)
        if not os.path.isabs(given) or any(is_in(real, one) for one in own):
            continue
        for grant in grants:
            covered = is_in(real, grant.real)
            if covered and grant.access != "read" and os.path.isdir(real):
                yield (
                    f"{grant.source} {grant.path} lets the command change the programs in {given},"
                    " which is in your PATH: you would run them outside of any cage"
                )
                break
