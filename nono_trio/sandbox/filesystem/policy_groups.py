"""What every cage may read: nono-py's policy groups, and what we add to them.

Rules of this file: the groups name paths by the user's variables, which decide over nothing here;
no group lets a command write anything but the devices that every program needs; what a group
grants is closed by the same protections as what a user grants, or left out.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from nono_trio.errors import UsageError
from nono_trio.posix.paths import ON_MACOS, home_directory, is_below
from nono_trio.sandbox.filesystem.grant import Grant
from nono_trio.sandbox.filesystem.system_paths import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from nono_trio.sandbox.filesystem.grant import Access
    from nono_trio.sandbox.filesystem.protected_paths import Protection

# All that is written without having been asked for. The groups grant more: ~/.local/state, which
# holds audit logs, and $TMPDIR, whatever that names.
_WRITABLE: Final = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"})

# A home where nothing is, and where only root could make anything.
_NOWHERE: Final = "/nonexistent/home"


def group_grants(library: ModuleType) -> tuple[list[Grant], list[str]]:
    """Resolve the groups of this system: grants, and paths that are closed to every command.

    The parts of the host that the cage has of its own are left out.
    """
    capabilities = library.CapabilitySet()
    denied = _resolved(library, SYSTEM.deny_groups, capabilities)
    denied += _resolved(library, SYSTEM.groups, capabilities)
    grants: dict[tuple[str, bool], Grant] = {}
    for found in capabilities.fs_capabilities():
        path: str = found.original
        access = _access(str(found.access), path)
        if access is None or SYSTEM.leaves_out(path):
            continue
        key = (path, found.is_file)
        if key in grants and grants[key].access != access:
            access = "readwrite"
        grants[key] = Grant(path, access, found.is_file, str(found.source))
    for path in SYSTEM.extra_read:
        if os.path.exists(path):
            is_file = not os.path.isdir(path)
            grants.setdefault((path, is_file), Grant(path, "read", is_file, "nono-trio"))
    return list(grants.values()), denied


def _resolved(library: ModuleType, groups: Sequence[str], capabilities: object) -> list[str]:
    """Take what groups grant into `capabilities`; return what they close.

    nono-py follows each path, and gives all up for one in a directory that may not be searched
    (another user's home, a directory that root made in one's own), or in a file. Then the groups
    are resolved for a home where nothing is, so that they close what they name: nobody follows a
    path there for the command either, and no tool of that home is granted.
    """
    policy = library.load_embedded_policy()
    home = home_directory()
    try:
        with _variables_named(HOME=home, TMPDIR="/tmp"):
            return list(policy.resolve_groups([*groups], capabilities).deny_paths)
    except OSError:
        with _variables_named(HOME=_NOWHERE, TMPDIR="/tmp"):
            closed = policy.resolve_groups([*groups], capabilities).deny_paths
    named = [
        home.rstrip("/") + path[len(_NOWHERE) :] if is_below(path, _NOWHERE) else path
        for path in closed
    ]
    return list(dict.fromkeys([*named, *map(os.path.realpath, named)]))


def _access(granted: str, path: str) -> Access | None:
    """What is taken of a group's grant, None if nothing."""
    if granted == "read":
        return "read"
    if path not in _WRITABLE:
        return None
    return "write" if granted == "write" else "readwrite"


def protected(
    grants: Sequence[Grant], protection: Protection, warnings: list[str], *, can_cover: bool
) -> tuple[list[Grant], list[str]]:
    """Return the grants of groups that may be given, and the closed paths inside of them.

    What lies in a closed path, or around our own state, is left out and told in `warnings`: nobody
    asked for it. Raises UsageError where a closed path can't be closed inside of one.
    """
    given, covered = [], []
    left_out: dict[str, list[str]] = {}
    for grant in grants:
        reason = protection.why_closed(grant)
        if reason is not None:
            left_out.setdefault(reason, []).append(grant.path)
            continue
        given.append(grant)
        if grant.is_file:
            continue
        for closed, name in protection.below(grant):
            if not os.path.lexists(name):
                continue
            # Seatbelt closes by path, and what can't be written can't be moved out of the way.
            if not can_cover and not ON_MACOS:
                raise UsageError(
                    f"{closed} is closed, but lies in {grant.path}, which every cage may read, and"
                    " this isolation can't close a path inside an open directory",
                    hint=f"use --isolation namespace, or lift it with --bypass-protection {closed}",
                )
            covered.append(name)
    warnings += (
        f"{' '.join(paths)}, which every cage may read, left out: {reason}"
        for reason, paths in left_out.items()
    )
    return given, covered


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
