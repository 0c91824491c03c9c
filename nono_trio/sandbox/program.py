"""What a later run executes or obeys: our own code, the profiles, and where programs are found.

Who can write these decides over the next cage, or needs none. Inside a grant for writing our code
is mounted read-only and the profiles are covered; what does not exist yet can't be, so the grant
is refused, as it is where there are no mounts. A directory of programs is only warned of: to
install some is an ordinary thing to ask of a command.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from nono_trio.errors import UsageError
from nono_trio.sandbox.code_places import CodePlace, code_places
from nono_trio.sandbox.named_directories import refuse_named
from nono_trio.sandbox.places import is_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.sandbox.plan import Grant

_LIFT = "--bypass-protection"
# What there is to do where our code lies inside a project.
_ELSEWHERE = "install nono-trio outside of it: pipx install nono-trio, or uv tool install nono-trio"
_MOST_NAMED = 3  # in one warning: an interpreter inside a grant has a dozen


def program_paths() -> list[str]:
    """Return every path that code of ours comes from and that a flag may lift, without doubles."""
    return list(dict.fromkeys(place.path for place in code_places()))


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
    return {
        path: grant for path, grant in kept.items() if not any(is_below(path, one) for one in kept)
    }


def _write(place: CodePlace) -> tuple[str, str]:
    if place.kind == "whole":
        return f"write {place.path}, which is nono-trio's own code", place.path
    return f"create files in {place.path}, from which nono-trio's Python imports", place.path


def refuse_unmade(grant: Grant, configuration: str, lifted: Sequence[str]) -> None:
    """Raise UsageError if `grant` lets the command make our configuration, which is not there."""
    real = os.path.realpath(configuration)
    if grant.access == "read" or real in lifted or os.path.exists(real):
        return
    if is_below(real, grant.real):
        what = f"create {configuration}, whose profiles a later run obeys"
        raise _refused(grant, what, real, "make it first, and it is covered")


def _refused(
    grant: Grant, what: str, path: str, instead: str = "grant directories beside it"
) -> UsageError:
    return UsageError(
        f"{grant.source} {grant.path} would let the command {what}",
        hint=f"{instead}, or lift this with {_LIFT} {shlex.quote(path)}",
    )


def kept_warnings(kept: dict[str, Grant]) -> Iterator[str]:
    """Say what stays read-only in each grant for writing, and what to do about it."""
    for grant in dict.fromkeys(kept.values()):
        paths = [path for path, one in kept.items() if one == grant]
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
        if not os.path.isabs(given) or any(real == one or is_below(real, one) for one in own):
            continue
        for grant in grants:
            covered = real == grant.real or is_below(real, grant.real)
            if covered and grant.access != "read" and os.path.isdir(real):
                yield (
                    f"{grant.source} {grant.path} lets the command change the programs in {given},"
                    " which is in your PATH: you would run them outside of any cage"
                )
                break
