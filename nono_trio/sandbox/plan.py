"""What the child may touch: grants, denied paths, the view of the file system, the executable.

The rules come from nono-py's policy groups and from the flags; nothing here talks to the kernel,
so `why`, `--dry-run` and enforcement read one and the same plan. A grant that would open what
the groups deny, or our own state directory, is refused, never narrowed silently.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from nono_trio.errors import UsageError
from nono_trio.sandbox import program
from nono_trio.sandbox.places import home_directory, is_below
from nono_trio.sandbox.protection import Protection
from nono_trio.sandbox.system_paths import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

Access = Literal["read", "write", "readwrite"]

# What a cage with a mount view has of its own.
PRIVATE = ("/tmp", "/dev/shm")


@dataclass(frozen=True)
class Grant:
    """One path (absolute, as given) with what may be done below it, and who gave it.

    `asked_for`: by the user, with a flag or in a profile, and not by a policy group.
    """

    path: str
    access: Access
    is_file: bool
    source: str
    asked_for: bool = False

    @property
    def real(self) -> str:
        """The path behind every symlink."""
        return os.path.realpath(self.path)


@dataclass(frozen=True)
class PathRequest:
    """One path as it is asked for in a profile; `source` is its file, line and key.

    `optional`: one of our own profiles names it, so it is no mistake when it is not there.
    """

    given: str
    access: Access
    is_file: bool
    source: str
    optional: bool = False


@dataclass(frozen=True)
class FileOptions:
    """The file flags of `run`, as given, and what a profile asks for beside them.

    `configuration` is the directory of our own, closed to every command.
    """

    allow: Sequence[str] = ()
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    allow_file: Sequence[str] = ()
    read_file: Sequence[str] = ()
    write_file: Sequence[str] = ()
    deny: Sequence[str] = ()
    bypass_protection: Sequence[str] = ()
    allow_cwd: bool = False
    workdir: str | None = None
    profile: Sequence[PathRequest] = ()
    configuration: str | None = None


@dataclass(frozen=True)
class FilePlan:
    """The resolved grants; `warnings` are for the person who started the run.

    `denied` is what stays closed wherever it lies; `covered` are those of them (without
    symlinks) that lie inside a grant, and so have to be covered by a mount; `kept` may be read
    there, but not written. `start` is the working
    directory, `directory` where the command starts: the same, unless it is outside the cage.
    """

    grants: tuple[Grant, ...]
    denied: tuple[str, ...]
    covered: tuple[str, ...]
    kept: tuple[str, ...]
    start: str
    directory: str
    warnings: tuple[str, ...] = field(default=())

    def covers(self, path: str, access: Literal["read", "write"]) -> Grant | None:
        """Return the grant that lets the child do `access` to `path`, or None."""
        real = os.path.realpath(path)
        if any(real == closed or is_below(real, closed) for closed in self.covered):
            return None
        if access == "write" and self.keeps(real) is not None:
            return None
        for grant in self.grants:
            if grant.access not in (access, "readwrite"):
                continue
            if real == grant.real or (not grant.is_file and is_below(real, grant.real)):
                return grant
        return None

    def keeps(self, real: str) -> str | None:
        """Return what of ours `real`, a path without symlinks, is or lies in, read-only here."""
        return next((one for one in self.kept if real == one or is_below(real, one)), None)

    @property
    def user_paths(self) -> list[str]:
        """The directories and files that the user granted, in the order given."""
        return [grant.path for grant in self.grants if grant.asked_for]


def plan_files(
    options: FileOptions, state_root: Path, library: ModuleType, *, can_cover: bool
) -> FilePlan:
    """Turn flags and policy groups into grants.

    `can_cover`: a denied path inside a grant can be covered by a mount (namespaces). Landlock by
    itself can't close a directory inside an open one, and Seatbelt can't close one that the command
    may rename around, so there such a grant is refused. Raises
    UsageError for that, for a grant of the wrong kind, and for one that lies in a denied path
    or covers the state directory. A path that does not exist is skipped with a warning.
    """
    directory = working_directory(options)
    if not os.path.isdir(directory):
        raise UsageError(f"--workdir: expected a directory, got {directory!r}")
    warnings: list[str] = []
    user = list(_user_grants(options, directory, warnings))
    system, denied = _group_grants(library)
    denied += [_absolute(path, directory) for path in options.deny]
    if options.configuration is not None:
        denied.append(options.configuration)
    protection = Protection.build(denied, options.bypass_protection, directory, state_root)
    covered = sorted({path for grant in user for path in protection.inside(grant, can_cover)})
    if options.configuration is not None:
        for grant in user:
            program.refuse_unmade(grant, options.configuration, protection.lifted)
    kept = program.kept_paths(user, protection.lifted, can_cover)
    warnings += program.kept_warnings(kept)
    warnings += program.search_path_warnings(user, directory, kept)
    # Nobody asked for what a group grants, so around our own state it is left out, not refused.
    system = [grant for grant in system if not protection.meets_state(grant.real)]
    plan = FilePlan(
        tuple(user + system),
        protection.denied,
        tuple(covered),
        tuple(kept),
        directory,
        directory,
        tuple(warnings),
    )
    if plan.covers(directory, "read") is None:
        warnings.append(
            f"the working directory {directory} is outside the cage, the command starts in /"
            " (grant it with --allow-cwd)"
        )
        return replace(plan, directory="/", warnings=tuple(warnings))
    return plan


def working_directory(options: FileOptions) -> str:
    """Return where the command is to start, absolute; raises UsageError when it is gone."""
    try:
        return os.path.abspath(options.workdir or os.getcwd())
    except FileNotFoundError:
        raise UsageError(
            "the working directory does not exist any more", hint="start from another directory"
        ) from None


def _absolute(given: str, directory: str) -> str:
    return os.path.normpath(os.path.join(directory, os.path.expanduser(given)))


def _user_grants(options: FileOptions, directory: str, warnings: list[str]) -> Iterator[Grant]:
    for request in (*_flag_requests(options, directory), *options.profile):
        path = _absolute(request.given, directory)
        if not os.path.exists(path):
            if not request.optional:
                warnings.append(f"{request.source} {request.given}: no such path, skipped")
            continue
        if not path.isascii() and not _is_text(path):
            raise UsageError(f"{request.source}: expected a path in UTF-8, got {path!a}")
        if os.path.isdir(path) is request.is_file:
            raise _wrong_kind(request)
        yield Grant(path, request.access, request.is_file, request.source, asked_for=True)


def _is_text(path: str) -> bool:
    """Whether a path is UTF-8, which is all that nono-py takes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flag_requests(options: FileOptions, directory: str) -> Iterator[PathRequest]:
    flags: tuple[tuple[str, Sequence[str], Access, bool], ...] = (
        ("--allow", options.allow, "readwrite", False),
        ("--read", options.read, "read", False),
        ("--write", options.write, "write", False),
        ("--allow-file", options.allow_file, "readwrite", True),
        ("--read-file", options.read_file, "read", True),
        ("--write-file", options.write_file, "write", True),
        ("--allow-cwd", (directory,) if options.allow_cwd else (), "readwrite", False),
    )
    for flag, paths, access, is_file in flags:
        yield from (PathRequest(given, access, is_file, flag) for given in paths)


def _wrong_kind(request: PathRequest) -> UsageError:
    expected, got = "a directory", "a file"
    if request.is_file:
        expected, got = got, expected
    by_flag = request.source.startswith("-")
    key = request.source.rpartition(".")[2]
    mark = "-file" if by_flag else "_file"
    other = key.removesuffix(mark) if request.is_file else f"{key}{mark}"
    return UsageError(
        f"{request.source}: expected {expected}, got {got}: {request.given}", hint=f"use {other}"
    )


def _group_grants(library: ModuleType) -> tuple[list[Grant], list[str]]:
    """Resolve nono-py's groups; the parts of the host that the cage has of its own are left out."""
    capabilities = library.CapabilitySet()
    policy = library.load_embedded_policy()
    with _variables_named(HOME=home_directory(), TMPDIR=os.environ.get("TMPDIR", "/tmp")):
        resolved = policy.resolve_groups([*SYSTEM.deny_groups, *SYSTEM.groups], capabilities)
    grants: dict[tuple[str, bool], Grant] = {}
    for found in capabilities.fs_capabilities():
        if SYSTEM.leaves_out(found.original):
            continue
        key = (found.original, found.is_file)
        access: Access = {"read": "read", "write": "write"}.get(str(found.access), "readwrite")  # type: ignore[assignment]  # the three words of Access
        if key in grants and grants[key].access != access:
            access = "readwrite"
        grants[key] = Grant(found.original, access, found.is_file, str(found.source))
    for path in SYSTEM.extra_read:
        if os.path.exists(path):
            is_file = not os.path.isdir(path)
            grants.setdefault((path, is_file), Grant(path, "read", is_file, "nono-trio"))
    return list(grants.values()), list(resolved.deny_paths)


@contextlib.contextmanager
def _variables_named(**variables: str) -> Iterator[None]:
    """The groups name variables that need not be set, and nono-py reads the process' own."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
