"""One grant: a path, what may be done there, who asked for it, and what it really is.

Rules of this file: a grant means what its path leads to when the plan is made, by device and inode;
what turns up there later is not granted. A symlink inside a directory that commands work in may
have been made by one of them: it never leads a grant out of there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.paths import Identity, home_directory, identity, is_in, relative
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# "socket": may be connected to, and neither read nor written.
Access = Literal["read", "write", "readwrite", "socket"]

# What a cage with a mount view has of its own.
PRIVATE = ("/tmp", "/dev/shm")

# A directory of sockets holds some dozens; this bounds what a mistake (`~`) costs.
_MOST_LOOKED_AT = 10_000

_FLAGS = {
    ("readwrite", False): "--allow", ("read", False): "--read", ("write", False): "--write",
    ("readwrite", True): "--allow-file", ("read", True): "--read-file",
    ("write", True): "--write-file",
}  # fmt: skip


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

    @cached_property
    def real(self) -> str:
        """The path behind every symlink."""
        return follow(self.path).real

    @cached_property
    def identity(self) -> Identity | None:
        """Device and inode of it; None once it has gone."""
        return identity(self.real)

    @property
    def may_write(self) -> bool:
        """Whether anything can be changed by it."""
        return self.access in ("write", "readwrite")


@dataclass(frozen=True)
class PathRequest:
    """One path as it is asked for; `source` is the flag, or a profile's file, line and key.

    `optional`: one of our own profiles names it, so it is no mistake when it is not there.
    """

    given: str
    access: Access
    is_file: bool
    source: str
    optional: bool = False


def grant_requests(
    requests: Iterable[PathRequest], directory: str, warnings: list[str]
) -> list[Grant]:
    """Turn requests into grants; what is left out is told in `warnings`.

    Raises UsageError for a path of the wrong kind, one that is not UTF-8, and for one that a
    symlink leads out of the directory that commands work in.
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
    """Return what a mount view shows of grants of sockets.

    Landlock lets a command read all that lies below its home and its /tmp, whatever is mounted
    there: of a directory in them only the sockets are shown that are there now. Raises UsageError
    for a directory that holds too much to look at.
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
    """Whether a symlink of this user's is on the way: an earlier command may have made it, in a
    directory that is not known of here."""
    return any(_is_own(link) for link in follow(path).links)


def _is_own(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_uid == os.geteuid()
    return False


def work_trees(directory: str) -> list[str]:
    """Return the directories that commands work in by default, without symlinks."""
    trees = [os.path.realpath(directory)]
    with contextlib.suppress(FileNotFoundError):  # --workdir names another
        trees.append(os.getcwd())
    return trees


def link_out(path: str, trees: Sequence[str]) -> str | None:
    """Return the symlink by which `path` leaves one of `trees` (without symlinks), if one does."""
    followed = follow(path)
    for link in followed.links:
        for tree in trees:
            if is_in(os.path.dirname(link), tree) and not is_in(followed.real, tree):
                return link
    return None


def absolute(given: str, directory: str) -> str:
    """Return a path as a flag or a profile gives it, seen from `directory`.

    Raises UsageError for a `..` behind a symlink: it reads as the link's own directory, and to the
    system it is the one above the link's target.
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
    """Whether a path is UTF-8, which is all that nono-py takes."""
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
