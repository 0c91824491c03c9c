"""The caller's standard streams: files and terminals that the command may open again.

Opening `/dev/stdout` or `/dev/fd/2` opens the file behind the stream again, and Landlock checks
that like any file. Rules of this file: opening again gives the access of the stream, not more. In a
view these files need a path: the first terminal gets /dev/console, where `ttyname` finds it; others
get a path of their own.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.posix.paths import ON_MACOS
from nono_trio.sandbox.filesystem.grant import Grant
from nono_trio.sandbox.launcher.cage_plan import MountOp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.posix.paths import Identity
    from nono_trio.sandbox.filesystem.grant import Access
    from nono_trio.sandbox.filesystem.plan import FilePlan

DEVICES: Final = "/dev"
CONSOLE: Final = "/dev/console"
_PLACE: Final = "/.nono-trio/stream-"  # then a number; not documented
_ACCESS: Final[dict[int, Access]] = {
    os.O_RDONLY: "read",
    os.O_WRONLY: "write",
    os.O_RDWR: "readwrite",
}


class Stream(msgspec.Struct, frozen=True):
    """The file behind one or more streams: its path on the host and its identity."""

    path: str
    access: Access
    identity: Identity
    is_terminal: bool

    def shown_at(self, place: str) -> MountOp:
        """Return the mount that shows it in the view at `place`."""
        writable = self.access != "read"
        return MountOp("stream", place, source=self.path, writable=writable, identity=self.identity)


def handed_over(files: FilePlan) -> list[Stream]:
    """Return the files and terminals behind our own streams, which the command inherits.

    Files without a name are left out, and so are files that `files` closes or keeps.
    """
    if ON_MACOS:
        return []
    found: dict[Identity, Stream] = {}
    for descriptor in (0, 1, 2):
        stream = _stream(descriptor)
        if stream is None or _is_closed(stream, files):
            continue
        before = found.get(stream.identity)
        if before is not None and before.access != stream.access:
            stream = Stream(stream.path, "readwrite", stream.identity, stream.is_terminal)
        found[stream.identity] = stream
    return list(found.values())


def named(streams: Sequence[Stream]) -> dict[str, Stream]:
    """Return the streams by their paths in a view: the first terminal is /dev/console."""
    places: dict[str, Stream] = {}
    for number, stream in enumerate(streams):
        is_first = stream.is_terminal and CONSOLE not in places
        places[CONSOLE if is_first else f"{_PLACE}{number}"] = stream
    return places


def _stream(descriptor: int) -> Stream | None:
    try:
        status = os.fstat(descriptor)
        is_terminal = stat.S_ISCHR(status.st_mode) and os.isatty(descriptor)
        if not (is_terminal or stat.S_ISREG(status.st_mode)):
            return None
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        there = os.stat(path)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    except OSError:  # closed, deleted, or of another mount namespace
        return None
    identity = (status.st_dev, status.st_ino)
    if not os.path.isabs(path) or (there.st_dev, there.st_ino) != identity:
        return None
    return Stream(path, _ACCESS[flags & os.O_ACCMODE], identity, is_terminal)


def _is_closed(stream: Stream, files: FilePlan) -> bool:
    grant = Grant(stream.path, stream.access, True, "a standard stream")
    if files.protection is not None and files.protection.why_closed(grant) is not None:
        return True
    return files.keeps(grant.real) is not None
