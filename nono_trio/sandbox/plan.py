"""What the child may touch: grants, denied paths, the view of the file system, the executable.

The rules come from nono-py's policy groups and from the flags; nothing here talks to the kernel,
so `why`, `--dry-run` and enforcement read one and the same plan. A grant that would open what
the groups deny, or our own state directory, is refused, never narrowed silently.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

Access = Literal["read", "write", "readwrite"]

DENY_GROUPS = (
    "deny_credentials", "deny_keychains_linux", "deny_browser_data_linux",
    "deny_shell_history", "deny_shell_configs",
)  # fmt: skip
SYSTEM_GROUPS = ("system_read_linux", "system_write_linux", "user_tools")

# Beyond nono-py's groups: account names (whoami, git and ssh ask for them), the rest of /usr
# (headers, libexec), and configuration without secrets that common tools refuse to start without.
EXTRA_READ = (
    "/usr", "/etc/passwd", "/etc/group", "/etc/protocols", "/etc/host.conf", "/etc/mime.types",
    "/etc/gitconfig", "/etc/inputrc", "/etc/debian_version", "/etc/machine-id",
)  # fmt: skip

# What the groups grant of the host and the view replaces: other programs' sockets and terminals.
REPLACED = ("/run", "/var/run", "/tmp", "/proc", "/dev/pts", "/dev/fd", "/dev/std")
PRIVATE = ("/tmp", "/dev/shm")


@dataclass(frozen=True)
class Grant:
    """One path (absolute, as given) with what may be done below it, and who gave it."""

    path: str
    access: Access
    is_file: bool
    source: str

    @property
    def real(self) -> str:
        """The path behind every symlink."""
        return os.path.realpath(self.path)


@dataclass(frozen=True)
class FileOptions:
    """The file flags of `run`, as given."""

    allow: Sequence[str] = ()
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    allow_file: Sequence[str] = ()
    read_file: Sequence[str] = ()
    write_file: Sequence[str] = ()
    allow_cwd: bool = False
    workdir: str | None = None


@dataclass(frozen=True)
class FilePlan:
    """The resolved grants; `warnings` are for the person who started the run."""

    grants: tuple[Grant, ...]
    denied: tuple[str, ...]
    directory: str
    warnings: tuple[str, ...] = field(default=())

    def covers(self, path: str, access: Literal["read", "write"]) -> Grant | None:
        """Return the grant that lets the child do `access` to `path`, or None."""
        real = os.path.realpath(path)
        for grant in self.grants:
            if grant.access not in (access, "readwrite"):
                continue
            if real == grant.real or (not grant.is_file and is_below(real, grant.real)):
                return grant
        return None

    @property
    def user_paths(self) -> list[str]:
        """The directories and files that the user granted, in the order given."""
        return [grant.path for grant in self.grants if grant.source.startswith("-")]


def is_below(path: str, directory: str) -> bool:
    """Tell whether `path` lies strictly inside `directory` (both without symlinks)."""
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def plan_files(options: FileOptions, state_root: Path, library: ModuleType) -> FilePlan:
    """Turn flags and policy groups into grants.

    Raises UsageError for a grant of the wrong kind, or one that covers or lies in a denied path
    or the state directory. A path that does not exist is skipped with a warning.
    """
    directory = os.path.abspath(options.workdir or os.getcwd())
    if not os.path.isdir(directory):
        raise UsageError(f"--workdir: expected a directory, got {directory!r}")
    warnings: list[str] = []
    user = list(_user_grants(options, directory, warnings))
    system, denied = _group_grants(library)
    for grant in user:
        _refuse_protected(grant, denied, state_root)
    plan = FilePlan(tuple(user + system), tuple(denied), directory, tuple(warnings))
    if plan.covers(directory, "read") is None:
        warnings.append(
            f"the working directory {directory} is outside the cage, the command starts in /"
            " (grant it with --allow-cwd)"
        )
        return FilePlan(plan.grants, plan.denied, "/", tuple(warnings))
    return plan


def _user_grants(options: FileOptions, directory: str, warnings: list[str]) -> Iterator[Grant]:
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
        for given in paths:
            path = os.path.normpath(os.path.join(directory, os.path.expanduser(given)))
            if not os.path.exists(path):
                warnings.append(f"{flag} {given}: no such path, skipped")
                continue
            if os.path.isdir(path) is is_file:
                raise _wrong_kind(flag, given, is_file=is_file)
            yield Grant(path, access, is_file, flag)


def _wrong_kind(flag: str, given: str, *, is_file: bool) -> UsageError:
    expected, got = ("a file", "a directory") if is_file else ("a directory", "a file")
    other = flag.removesuffix("-file") if is_file else f"{flag}-file"
    return UsageError(f"{flag}: expected {expected}, got {got}: {given}", hint=f"use {other}")


def _refuse_protected(grant: Grant, denied: Sequence[str], state_root: Path) -> None:
    real = grant.real
    state = os.path.realpath(state_root)
    if real == state or is_below(real, state) or is_below(state, real):
        raise UsageError(
            f"{grant.source} {grant.path} covers the audit state directory {state}",
            hint="grant a smaller directory, or move the state with --audit-dir",
        )
    for path in denied:
        protected = os.path.realpath(path)
        if real == protected or is_below(real, protected):
            raise UsageError(
                f"{grant.source} {grant.path} is protected (secrets or shell start-up files)",
                hint="grant something else; what nono's deny groups name stays closed",
            )
        if not grant.is_file and is_below(protected, real):
            raise UsageError(
                f"{grant.source} {grant.path} would open {path}, which is protected",
                hint="grant the directories below it that the command needs",
            )


def _group_grants(library: ModuleType) -> tuple[list[Grant], list[str]]:
    """Resolve nono-py's groups; the parts of the host that the view replaces are left out."""
    capabilities = library.CapabilitySet()
    policy = library.load_embedded_policy()
    with _temporary_directory_named():
        resolved = policy.resolve_groups([*DENY_GROUPS, *SYSTEM_GROUPS], capabilities)
    grants: dict[tuple[str, bool], Grant] = {}
    for found in capabilities.fs_capabilities():
        if found.original.startswith(REPLACED):
            continue
        key = (found.original, found.is_file)
        access: Access = {"read": "read", "write": "write"}.get(str(found.access), "readwrite")  # type: ignore[assignment]  # the three words of Access
        if key in grants and grants[key].access != access:
            access = "readwrite"
        grants[key] = Grant(found.original, access, found.is_file, str(found.source))
    for path in EXTRA_READ:
        if os.path.exists(path):
            is_file = not os.path.isdir(path)
            grants.setdefault((path, is_file), Grant(path, "read", is_file, "nono-trio"))
    return list(grants.values()), list(resolved.deny_paths)


@contextlib.contextmanager
def _temporary_directory_named() -> Iterator[None]:
    """The groups name $TMPDIR, which need not be set, and nono-py reads the process' own one."""
    if "TMPDIR" in os.environ:
        yield
        return
    os.environ["TMPDIR"] = "/tmp"
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
