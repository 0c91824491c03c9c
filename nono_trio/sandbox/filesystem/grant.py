"""One grant: a path, its access, its source, and the identity of its file.

Rules of this file: a grant applies to the file that its path leads to when the plan is made, by
device and inode; a file that appears there later is not granted. A command may have made the
symlinks inside its working directory, so such a symlink can't lead a grant out of it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import msgspec

from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.paths import Identity, home_directory, identity, is_in, relative
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# "socket": connecting only, neither reading nor writing.
Access = Literal["read", "write", "readwrite", "socket"]

# A cage with a mount view has its own directories at these paths.
PRIVATE = ("/tmp", "/dev/shm")

_OF_EACH_PROCESS = ("/proc/self", "/proc/thread-self")  # symlinks that lead each reader elsewhere

# A directory of sockets holds some dozens; this bounds the cost of a mistake (`~`).
_MOST_LOOKED_AT = 10_000

_FLAGS = {
    ("readwrite", False): "--allow", ("read", False): "--read", ("write", False): "--write",
    ("readwrite", True): "--allow-file", ("read", True): "--read-file",
    ("write", True): "--write-file",
}  # fmt: skip


class Grant(msgspec.Struct, frozen=True, dict=True):  # it caches two properties
    """One path (absolute, as given), the access below it, and the source of the grant.

    `asked_for`: the user granted it with a flag or in a profile, not a policy group.
    """

    path: str
    access: Access
    is_file: bool
    source: str
    asked_for: bool = False

    @cached_property
    def real(self) -> str:
        """The path behind every symlink."""
        return follow(self.path).real

    @cached_property
    def identity(self) -> Identity | None:
        """Device and inode of the file; None if it is missing."""
        return identity(self.real)

    @property
    def may_write(self) -> bool:
        """Tell whether the grant allows changes."""
        return self.access in ("write", "readwrite")


class PathRequest(msgspec.Struct, frozen=True):
    """One requested path; `source` is the flag, or a profile's file, line and key.

    `optional`: it comes from one of our own profiles, so a missing path is no mistake.
    """

    given: str
    access: Access
    is_file: bool
    source: str
    optional: bool = False


def grant_requests(
    requests: Iterable[PathRequest], directory: str, warnings: list[str]
) -> list[Grant]:
    """Turn requests into grants; add a warning for each request that is left out.

    Raises UsageError for a path of the wrong kind, a path that is not UTF-8, and a path that a
    symlink leads out of the working directory.
    """
    found = [
        (request, grant)
        for request in requests
        if (grant := _grant(request, directory, warnings)) is not None
    ]
    trees = work_trees(directory)
    trees += [grant.real for _, grant in found if not grant.is_file]
    grants = []
    for request, grant in found:
        link = link_out(grant.path, trees)
        if link is None:
            grants.append(grant)
            if _is_led_by_own_link(grant.path):
                warnings.append(f"{request.source} {grant.path} leads to {grant.real}")
        elif request.optional:
            warnings.append(f"{_leads_out(request.source, grant.path, link, grant.real)}, skipped")
        else:
            raise _refused(request, grant, link)
    return grants


def shown_sockets(grants: Iterable[Grant], warnings: list[str]) -> list[Grant]:
    """Return the socket grants that a mount view shows.

    Landlock lets a command read everything below its home and its /tmp, including mounts there. So
    a granted directory inside them is replaced by the sockets that it has now. Raises UsageError
    for a directory with too many files.
    """
    own = [os.path.realpath(home_directory()), *PRIVATE]
    shown: list[Grant] = []
    for grant in grants:
        if grant.is_file or not any(is_in(grant.real, place) for place in own):
            shown.append(grant)
            continue
        found = list(_sockets_in(grant))
        if not found:
            warnings.append(f"{grant.source} {grant.path}: there is no socket in it now")
        shown += found
    return shown


def _sockets_in(directory: Grant) -> Iterator[Grant]:
    looked = 0
    for place, _, names in os.walk(directory.real):
        for name in sorted(names):
            looked += 1
            if looked > _MOST_LOOKED_AT:
                raise UsageError(
                    f"{directory.source} {directory.path}: more than {_MOST_LOOKED_AT} files",
                    hint="name the socket",
                )
            real = os.path.join(place, name)
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.lstat(real).st_mode):
                    path = os.path.join(directory.path, relative(real, directory.real))
                    yield Grant(path, "socket", True, directory.source, asked_for=True)


def _is_led_by_own_link(path: str) -> bool:
    """Tell whether the path goes through a symlink of this user.

    An earlier command may have made it, in a directory that this run does not know.
    """
    return any(_is_own(link) for link in follow(path).links)


def _is_own(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_uid == os.geteuid()
    return False


def work_trees(directory: str) -> list[str]:
    """Return the directories that commands work in by default, without symlinks."""
    trees = [os.path.realpath(directory)]
    with contextlib.suppress(FileNotFoundError):  # removed; --workdir names another
        trees.append(os.getcwd())
    return trees


def link_out(path: str, trees: Sequence[str]) -> str | None:
    """Return the symlink by which `path` leaves one of `trees` (without symlinks), or None."""
    followed = follow(path)
    for link in followed.links:
        for tree in trees:
            if is_in(os.path.dirname(link), tree) and not is_in(followed.real, tree):
                return link
    return None


def absolute(given: str, directory: str) -> str:
    """Return the absolute path of a flag or a profile, relative to `directory`.

    Raises UsageError for `..` after a symlink: a reader takes it for the link's own directory, the
    system for the parent of the link's target.
    """
    path = os.path.join(directory, expand_home(given))
    parts = path.split("/")
    for position, part in enumerate(parts):
        before = "/".join(parts[:position])
        if part == ".." and os.path.islink(before):
            raise UsageError(
                f"{given}: the .. behind the symlink {before} can be read in two ways",
                hint=f"write where it leads: {shlex.quote(os.path.realpath(path))}",
            )
    return os.path.normpath(path)


def _grant(request: PathRequest, directory: str, warnings: list[str]) -> Grant | None:
    path = absolute(request.given, directory)
    if not os.path.exists(path):
        if not request.optional:
            warnings.append(f"{request.source} {request.given}: no such path, skipped")
        return None
    if not path.isascii() and not _is_text(path):
        raise UsageError(f"{request.source}: expected a path in UTF-8, got {path!a}")
    if any(link in _OF_EACH_PROCESS for link in follow(path).links):
        raise UsageError(
            f"{request.source} {request.given}: it leads to what each process has of its own in"
            " /proc, nothing that could be granted",
            hint="leave it out: the command reads its own /proc/self anyway",
        )
    is_file = not os.path.isdir(path)
    if request.access == "socket":
        if is_file and not stat.S_ISSOCK(os.stat(path).st_mode):
            raise UsageError(
                f"{request.source}: expected a socket or a directory, got a file: {request.given}",
                hint="grant a file with --read-file or --allow-file",
            )
        if os.path.realpath(path) in PRIVATE:
            raise UsageError(
                f"{request.source}: {path} is the cage's own", hint="name the socket in it"
            )
    elif is_file is not request.is_file:
        raise _wrong_kind(request)
    return Grant(path, request.access, is_file, request.source, asked_for=True)


def _is_text(path: str) -> bool:
    """Tell whether a path is UTF-8, which nono-py requires."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _leads_out(source: str, path: str, link: str, real: str) -> str:
    return f"{source} {path} follows the symlink {link} out of its directory, to {real}"


def _refused(request: PathRequest, grant: Grant, link: str) -> UsageError:
    flag = _FLAGS.get((request.access, grant.is_file), "--allow-unix-socket")
    return UsageError(
        f"{_leads_out(request.source, grant.path, link, grant.real)}: a command that worked there"
        " may have made it",
        hint=f"if that is what you mean, name it: {flag} {shlex.quote(grant.real)}",
    )
