"""Warns of files that the command may write and a later run relies on: profiles, and the settings
from which package_registries takes its hosts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nono_trio.core.policy.host_groups import PACKAGE_REGISTRIES
from nono_trio.core.profile.fields import FIELDS
from nono_trio.posix.account import expand_home
from nono_trio.posix.paths import is_in
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from nono_trio.sandbox.filesystem.plan import PathRequest


def writable_paths(
    given: Mapping[str, Any], requests: Sequence[PathRequest], directory: str
) -> Iterator[str]:
    """Yield the directories and files that the command may write, without symlinks. `given` has the
    flags, `requests` are those of profiles, `directory` is the working directory."""
    asked = [
        path
        for declared in FIELDS
        if declared.grant in ("write", "readwrite") and declared.parameter is not None
        for path in given.get(declared.parameter, ())
    ]
    asked += [one.given for one in requests if one.access in ("write", "readwrite")]
    asked += [directory] if given.get("allow_cwd") else []
    for path in asked:
        yield os.path.realpath(os.path.join(directory, expand_home(path)))


def changeable_profiles(files: Sequence[Path], writable: Sequence[str]) -> list[str]:
    """Warn of a profile that the command can rewrite for the next run, or put another in place of:
    a symlink on the way to it that the command can replace decides what is found there."""
    warnings = []
    for path in files:
        real, links, _ = follow(os.path.abspath(path))
        if any(is_in(place, one) for one in writable for place in (real, *links)):
            warnings.append(
                f"the command may write the profile {path}, and so the cage of the next run"
            )
    return warnings


def changeable_registries(home: str, writable: Sequence[str], directory: str) -> list[str]:
    """Warn of files from which a later run would take the hosts of package_registries.

    Those of the working directory are never believed.
    """
    real = os.path.realpath(directory)
    outside = [path for path in writable if not is_in(path, real)]
    if not outside:
        return []
    from nono_trio.config.registries import writable_files

    files = writable_files(os.environ, home, outside)
    files = [path for path in files if not is_in(os.path.realpath(path), real)]
    if not files:
        return []
    return [
        f"the command may write {', '.join(files)}: a later run with {PACKAGE_REGISTRIES} allows"
        " the hosts that it finds there"
    ]
