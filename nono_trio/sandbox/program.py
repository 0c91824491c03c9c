"""What a later run executes or obeys: our own code, the profiles, and where programs are found.

Who can write these decides over the next cage, or needs none. Inside a grant for writing our code
is mounted read-only and the profiles are covered; what does not exist yet can't be, so the grant
is refused, as it is where there are no mounts. A directory of programs is only warned of: to
install some is an ordinary thing to ask of a command.
"""

from __future__ import annotations

import os
import shlex
import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.errors import UsageError
from nono_trio.sandbox.places import is_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.sandbox.plan import Grant

_LIFT = "--bypass-protection"
_PACKAGE = Path(__file__).resolve().parent.parent
_SITE_NAMES = frozenset({"site-packages", "dist-packages"})


def program_paths() -> list[str]:
    """Return what our code and its interpreter are read from, without symlinks and doubles.

    Not every directory of sys.path: where we are run from a checkout, that is the user's project.
    """
    found = [str(_PACKAGE), os.path.dirname(os.__file__), sys.executable]
    found += [sys.prefix] if sys.prefix != sys.base_prefix else []
    found += [path for path in sys.path if os.path.basename(path) in _SITE_NAMES]
    found += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    real = dict.fromkeys(map(os.path.realpath, found))
    return [path for path in real if not any(is_below(path, other) for other in real)]


def kept_paths(grants: Iterable[Grant], lifted: Sequence[str], can_cover: bool) -> dict[str, Grant]:
    """Return our code inside grants for writing, to be mounted read-only, with the grant.

    Raises UsageError for a grant that can't be given without it.
    """
    kept = {}
    ours = [path for path in program_paths() if path not in lifted]
    for grant in grants:
        if grant.access == "read":
            continue
        for path in ours:
            if grant.real == path or is_below(grant.real, path):
                raise _refused(grant, f"write {path}, which is nono-trio's own code", path)
            if not is_below(path, grant.real):
                continue
            if not os.path.exists(path):
                raise _refused(grant, f"create {path}, from which nono-trio's Python imports", path)
            if not can_cover:
                raise _refused(grant, f"write {path}, which is nono-trio's own code", path)
            kept[path] = grant
    return kept


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
    """Say what stays read-only in a grant for writing."""
    for path, grant in kept.items():
        yield (
            f"{path} is nono-trio's own code and stays read-only inside {grant.source} {grant.path}"
            f" (lift this with {_LIFT} {shlex.quote(path)})"
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
