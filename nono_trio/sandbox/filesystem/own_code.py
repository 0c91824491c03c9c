"""What a later run executes: our own code, what installers install, and where programs are found.

Who can write these decides over the next cage, or needs none. Inside a grant for writing our code
is mounted read-only, as are the caches of installers; what does not exist yet can't be, so the
grant is refused, as it is where there are no mounts. A directory of programs is only warned of: to
install some is an ordinary thing to ask of a command.
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
# What there is to do where our code lies inside a project.
_ELSEWHERE = "install nono-trio outside of it: pipx install nono-trio, or uv tool install nono-trio"
# What there is to do where a command wants an installer's cache.
_HOME = "with --home kept it has a cache of its own"
_MOST_NAMED = 3  # in one warning: an interpreter inside a grant has a dozen


def program_paths() -> list[str]:
    """Return every path that code of ours comes from and that a flag may lift, without doubles."""
    caches = [cache.path for cache in _caches()]
    return list(dict.fromkeys([*(place.path for place in code_places()), *_real(caches)]))


def kept_paths(grants: Iterable[Grant], lifted: Sequence[str], can_cover: bool) -> dict[str, Grant]:
    """Return our code inside grants for writing, to be mounted read-only, with the grant.

    Raises UsageError for a grant that can't be given without it, and for one over a directory that
    the caller's variables name as a place of code.
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
    """Say what stays read-only in each grant for writing, and what to do about it."""
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
    """Warn of directories of $PATH that the command may write.

    Not of those in `directory`, where the command works: a project's own programs are known to be.
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
