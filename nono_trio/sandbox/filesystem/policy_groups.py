"""The paths that every cage may read: nono-py's policy groups, and our additions.

Rules of this file: groups name paths by variables of the user; only HOME counts, the others have
fixed values. No group grants writing, except for the devices that every program needs. Grants of
groups obey the same protections as grants of the user, or are left out.
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

# The only paths that are writable by default. The groups grant more: ~/.local/state, which holds
# audit logs, and $TMPDIR.
_WRITABLE: Final = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"})

# A home that does not exist, and that only root could make.
_NOWHERE: Final = "/nonexistent/home"


def group_grants(library: ModuleType) -> tuple[list[Grant], list[str]]:
    """Resolve the groups of this system: grants, and paths that are closed to every command.

    Paths that the cage has of its own are left out.
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
    """Add the grants of groups to `capabilities`; return the paths that they close.

    nono-py follows each path, and fails for a path below a file or below an unsearchable directory
    (another user's home, a directory of root in the user's own). Then the groups are resolved for
    the home _NOWHERE, and their closed paths are moved to the real home. No tool of that home is
    granted then.
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
    """Return the access that we take over from a group's grant, None to leave it out."""
    if granted == "read":
        return "read"
    if path not in _WRITABLE:
        return None
    return "write" if granted == "write" else "readwrite"


def protected(
    grants: Sequence[Grant], protection: Protection, warnings: list[str], *, can_cover: bool
) -> tuple[list[Grant], list[str]]:
    """Return the allowed grants of groups, and the closed paths inside them.

    A grant in a closed path or around our own state is left out with a warning, because the user
    did not ask for it. Raises UsageError if a closed path inside a grant can't be closed.
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
            # Seatbelt closes by path; the command can't rename what it can't write.
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
    """Set the variables that groups use; nono-py reads them from this process."""
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
