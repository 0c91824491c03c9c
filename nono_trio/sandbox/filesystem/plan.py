"""The file plan: grants, denied paths, and the view of the file system.

The rules come from nono-py's policy groups and from the flags. This file does not change the
system, so `why`, `--dry-run` and enforcement share one plan. A grant that would open a denied path
or our own state directory is refused, never narrowed silently.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from nono_trio.errors import UsageError
from nono_trio.posix.paths import ancestors, is_below, is_in
from nono_trio.sandbox.filesystem import own_code
from nono_trio.sandbox.filesystem.grant import (
    PRIVATE,
    Access,
    Grant,
    PathRequest,
    absolute,
    grant_requests,
    shown_sockets,
)
from nono_trio.sandbox.filesystem.policy_groups import group_grants, protected
from nono_trio.sandbox.filesystem.protected_paths import Protection, configuration_directories
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from nono_trio.posix.paths import Identity

__all__ = ["PRIVATE", "Access", "FileOptions", "FilePlan", "Grant", "PathRequest", "plan_files"]


class FileOptions(msgspec.Struct, frozen=True):
    """The file flags of `run`, as given, and the requests of profiles.

    `configuration` is our own directory of profiles, closed to every command.
    """

    allow: Sequence[str] = ()
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    allow_file: Sequence[str] = ()
    read_file: Sequence[str] = ()
    write_file: Sequence[str] = ()
    unix_sockets: Sequence[str] = ()
    deny: Sequence[str] = ()
    bypass_protection: Sequence[str] = ()
    allow_cwd: bool = False
    workdir: str | None = None
    profile: Sequence[PathRequest] = ()
    configuration: str | None = None


class FilePlan(msgspec.Struct, frozen=True):
    """The resolved grants; `warnings` are for the person who started the run.

    `denied` are the closed paths; `covered` are those of them (without symlinks) inside a grant,
    which a mount must cover; `kept` are read-only paths inside a grant for writing. `sockets` may
    only be connected to. `start` is the working directory; the command starts in `directory`, which
    is the same unless `start` is outside the cage.
    """

    grants: tuple[Grant, ...]
    denied: tuple[str, ...]
    covered: tuple[str, ...]
    kept: tuple[str, ...]
    start: str
    directory: str
    warnings: tuple[str, ...] = msgspec.field(default=())
    sockets: tuple[Grant, ...] = ()
    protection: Protection | None = None

    def covers(self, path: str, access: Literal["read", "write"]) -> Grant | None:
        """Return the grant that lets the child do `access` to `path`, or None."""
        real = os.path.realpath(path)
        if any(is_in(real, closed) for closed in self.covered):
            return None
        if access == "write" and self.keeps(real) is not None:
            return None
        for grant in self.grants:
            if grant.access not in (access, "readwrite"):
                continue
            if real == grant.real or (not grant.is_file and is_below(real, grant.real)):
                return grant
        return None

    def hidden_link(self, path: str) -> str | None:
        """Return the first symlink of an absolute path that a mount view of this plan lacks.

        The view has the symlinks inside grants and those on the way to a grant.
        """
        shown = (*self.grants, *self.sockets)
        made = {link for grant in shown for link in follow(grant.path).links}
        directories = [grant.real for grant in shown if not grant.is_file]
        for link in follow(path).links:
            if link not in made and not any(is_below(link, one) for one in directories):
                return link
        return None

    def connects(self, path: str) -> Grant | None:
        """Return the grant of a socket, or of a directory of sockets, that contains `path`."""
        real = os.path.realpath(path)
        if any(is_in(real, closed) for closed in self.covered):
            return None
        return next((one for one in self.sockets if is_in(real, one.real)), None)

    def closes(self, path: str) -> str | None:
        """Return the closed path, as given, that contains `path`."""
        if self.protection is None:
            return None
        return self.protection.closing(os.path.realpath(path))

    def closes_by_name(self, real: str) -> str | None:
        """As `closes`, for a path without symlinks and without a look at the disk."""
        return None if self.protection is None else self.protection.closing_by_name(real)

    def keeps(self, real: str) -> str | None:
        """Return the read-only path of ours that contains `real`, a path without symlinks."""
        return next((one for one in self.kept if is_in(real, one)), None)

    @property
    def user_paths(self) -> list[str]:
        """The directories, files and sockets that the user granted, in the order given."""
        return [grant.path for grant in (*self.grants, *self.sockets) if grant.asked_for]

    @property
    def identities(self) -> Mapping[str, Identity]:
        """Device and inode of each grant by its path, at the time of the plan."""
        every = (*self.grants, *self.sockets)
        return {grant.path: grant.identity for grant in every if grant.identity is not None}


def plan_files(
    options: FileOptions, state_root: Path, library: ModuleType, *, can_cover: bool
) -> FilePlan:
    """Turn flags and policy groups into grants.

    `can_cover`: a mount can cover a denied path inside a grant (namespaces). Landlock alone can't
    close a directory inside an open one; Seatbelt can't close one if the command may rename its
    parents. There such a grant is refused. Raises UsageError for that, for a grant of the wrong
    kind, in a denied path, or around the state directory. A missing path is skipped with a
    warning.
    """
    directory = working_directory(options)
    if not os.path.isdir(directory):
        raise UsageError(f"--workdir: expected a directory, got {directory!r}")
    warnings: list[str] = []
    requests = (*_flag_requests(options, directory), *options.profile)
    asked = grant_requests(requests, directory, warnings)
    user = [grant for grant in asked if grant.access != "socket"]
    sockets = [grant for grant in asked if grant.access == "socket"]
    system, denied = group_grants(library)
    denied += [absolute(path, directory) for path in options.deny]
    configuration = configuration_directories(options.configuration)
    protection = Protection.build(
        denied, configuration, options.bypass_protection, directory, state_root
    )
    covered = [path for grant in asked for path in protection.inside(grant, can_cover=can_cover)]
    kept = own_code.kept_paths(user, protection.lifted, can_cover)
    warnings += own_code.kept_warnings(kept)
    warnings += own_code.search_path_warnings(user, directory, kept)
    if can_cover:
        sockets = shown_sockets(sockets, warnings)
    system, below = protected(system, protection, warnings, can_cover=can_cover)
    plan = FilePlan(
        tuple(user + system),
        protection.denied,
        _outermost(covered + below),
        tuple(kept),
        directory,
        directory,
        tuple(warnings),
        tuple(sockets),
        protection,
    )
    if plan.covers(directory, "read") is None:
        if directory != "/":  # / needs no grant
            warnings.append(
                f"the working directory {directory} is outside the cage, the command starts in /"
                " (grant it with --allow-cwd)"
            )
        return replace(plan, directory="/", warnings=tuple(warnings))
    return plan


def working_directory(options: FileOptions) -> str:
    """Return the absolute path in which the command starts; raises UsageError if it is missing."""
    try:
        return os.path.abspath(options.workdir or os.getcwd())
    except FileNotFoundError:
        raise UsageError(
            "the working directory does not exist any more", hint="start from another directory"
        ) from None


def _outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """Return `paths` without those inside another: a cover hides everything below it."""
    every = set(paths)
    return tuple(path for path in sorted(every) if every.isdisjoint(list(ancestors(path))[1:]))


def _flag_requests(options: FileOptions, directory: str) -> Iterator[PathRequest]:
    flags: tuple[tuple[str, Sequence[str], Access, bool], ...] = (
        ("--allow", options.allow, "readwrite", False),
        ("--read", options.read, "read", False),
        ("--write", options.write, "write", False),
        ("--allow-file", options.allow_file, "readwrite", True),
        ("--read-file", options.read_file, "read", True),
        ("--write-file", options.write_file, "write", True),
        ("--allow-unix-socket", options.unix_sockets, "socket", False),
        ("--allow-cwd", (directory,) if options.allow_cwd else (), "readwrite", False),
    )
    for flag, paths, access, is_file in flags:
        yield from (PathRequest(given, access, is_file, flag) for given in paths)
