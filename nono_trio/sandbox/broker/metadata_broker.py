"""Changes of files' modes, owners, attributes and times, made by the supervisor in a child's stead.

Landlock judges what is opened, not what is changed about a file by its name: without this, a
command in landlock isolation could open the user's files to everybody, or make its own log
unwritable. And in every cage a mode with S_ISGID makes of a directory what git and tar want, but of
a program one that runs with a group's rights for whoever starts it.

Rules: paths, names and values are read from the child's memory once; a path becomes a descriptor
once, in the child's view and with its rights, which is then judged by where it really is and is
changed by that hold; so the child's own call never goes on. What is not a file, directory, symlink,
fifo or socket is not changed. Everything blocks: it belongs in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.posix.paths import is_in, still_at
from nono_trio.sandbox.broker import file_calls, seccomp_notify
from nono_trio.sandbox.broker.caller import AT_FDCWD, Caller
from nono_trio.sandbox.broker.seccomp_notify import Returned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.sandbox.broker.seccomp_notify import Notification

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_IN_DONT_FOLLOW: Final = 0x02000000
_MOST_ATTRIBUTE: Final = 65_536  # XATTR_SIZE_MAX
_MOST_NAME: Final = 256  # XATTR_NAME_MAX and its NUL
# The others are for capabilities that the child lacks and its supervisor may have.
_ATTRIBUTES: Final = (b"user.", b"system.posix_acl_")
_TIMES: Final = struct.Struct("=4q")  # two struct timespec, or timeval
_UTIMBUF: Final = struct.Struct("=2q")
_CHANGEABLE: Final = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK, stat.S_ISFIFO, stat.S_ISSOCK)
MOST_REMEMBERED: Final = 3  # refused paths that are told at the end; the rest is counted


class _Call(NamedTuple):
    """Where a call has its file: arguments' places, and whether a last symlink is followed."""

    action: str
    directory: int | None = None
    path: int | None = None
    flags: int | None = None
    follow: bool = True
    rest: int = 0  # the first argument of what is to become of it


CALLS: Final = {
    "chmod": _Call("mode", path=0, rest=1),
    "fchmod": _Call("mode", directory=0, rest=1),
    "fchmodat": _Call("mode", directory=0, path=1, rest=2),
    "fchmodat2": _Call("mode", directory=0, path=1, flags=3, rest=2),
    "chown": _Call("owner", path=0, rest=1),
    "lchown": _Call("owner", path=0, follow=False, rest=1),
    "fchown": _Call("owner", directory=0, rest=1),
    "fchownat": _Call("owner", directory=0, path=1, flags=4, rest=2),
    "setxattr": _Call("attribute", path=0, rest=1),
    "lsetxattr": _Call("attribute", path=0, follow=False, rest=1),
    "fsetxattr": _Call("attribute", directory=0, rest=1),
    "removexattr": _Call("no attribute", path=0, rest=1),
    "lremovexattr": _Call("no attribute", path=0, follow=False, rest=1),
    "fremovexattr": _Call("no attribute", directory=0, rest=1),
    "utime": _Call("seconds", path=0, rest=1),
    "utimes": _Call("microseconds", path=0, rest=1),
    "futimesat": _Call("microseconds", directory=0, path=1, rest=2),
    "utimensat": _Call("nanoseconds", directory=0, path=1, flags=3, rest=2),
    "inotify_add_watch": _Call("watch", path=1, rest=2),
}


@dataclass
class MetadataBroker:
    """Makes the changes that the cage may make.

    `changed` and `watched` are the paths below which it may change and watch files (resolved, "/"
    for all); `elsewhere`: the child's mounts are its own, and say by themselves what it may change.
    `refused` counts by what was refused, `paths` has the first paths of each.
    """

    changed: Sequence[str]
    watched: Sequence[str]
    elsewhere: bool = False
    refused: dict[str, int] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        grants: Sequence[tuple[str, str, bool]],
        identities: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        *,
        elsewhere: bool,
    ) -> MetadataBroker:
        """The broker of a cage plan; no grants stand for no file sandbox. What is not what it was
        when the plan was made (`identities`) is not granted."""
        if elsewhere or not grants:
            return cls(("/",), ("/",), elsewhere)
        found = [(still_at(path, identities.get(path)), access) for path, access, _ in grants]
        resolved = [(path, access) for path, access in found if path is not None]
        changed = [path for path, access in resolved if access != "read"]
        return cls(changed, [path for path, _ in resolved], elsewhere)

    def do(self, listener: int, notified: Notification, call: str) -> int | Returned:
        """Do what the call asks for; return 0 or its value, raise OSError with its errno."""
        form = CALLS[call]
        caller = Caller.of(notified.thread, elsewhere=self.elsewhere)
        with ExitStack() as opened:
            held = self._hold(caller, form, notified.arguments)
            opened.callback(os.close, held)
            change = _change(caller, form.action, notified.arguments[form.rest :])
            inotify = -1
            if form.action == "watch":
                inotify = caller.descriptor(_signed(notified.arguments[0]))
                opened.callback(os.close, inotify)
            # What was read until now was the caller's only if it still waits.
            if not seccomp_notify.is_waiting(listener, notified):
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._judge(held, form.action, change)
            with caller.acting():
                return _do(held, form.action, change, inotify, by_descriptor=form.path is None)

    def _hold(self, caller: Caller, form: _Call, arguments: Sequence[int]) -> int:
        directory = AT_FDCWD if form.directory is None else _signed(arguments[form.directory])
        flags = 0 if form.flags is None else arguments[form.flags] & 0xFFFFFFFF
        if flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if form.path is None:
            return caller.descriptor(directory)
        at = arguments[form.path]
        if form.action == "nanoseconds" and at == 0:
            return caller.descriptor(directory)
        path = caller.read_path(at)
        if not path and flags & _AT_EMPTY_PATH and directory != AT_FDCWD:
            return caller.descriptor(directory)
        follow = form.follow and not flags & _AT_SYMLINK_NOFOLLOW
        if form.action == "watch":
            follow = not arguments[form.rest] & _IN_DONT_FOLLOW
        return caller.hold(directory, path, follow=follow)

    def _judge(self, held: int, action: str, change: Sequence[object]) -> None:
        """Raises PermissionError, and remembers it, where the cage may not do that to it."""
        mode = os.fstat(held).st_mode
        path = os.readlink(file_calls.by_hold(held)).decode("utf-8", "surrogateescape")
        if action == "mode" and isinstance(change[0], int):
            wanted = change[0] & (stat.S_ISUID | (0 if stat.S_ISDIR(mode) else stat.S_ISGID))
            if wanted:
                self._refuse("set-user-id and set-group-id files", path, errno.EPERM)
        if self.elsewhere or not path.startswith("/"):  # a pipe, a socket: nobody's but its own
            return
        paths = self.watched if action == "watch" else self.changed
        if not any(is_in(path, each) for each in paths):
            if not path.startswith("/memfd:"):
                what = "watches" if action == "watch" else "changes of modes, owners or times"
                self._refuse(f"{what} outside the grants", path, errno.EACCES)
        elif action != "watch" and not any(fits(mode) for fits in _CHANGEABLE):
            self._refuse("changes of devices", path, errno.EPERM)

    def _refuse(self, what: str, path: str, number: int) -> None:
        self.refused[what] = self.refused.get(what, 0) + 1
        first = self.paths.setdefault(what, [])
        if len(first) < MOST_REMEMBERED and path not in first:
            first.append(path)
        raise PermissionError(number, os.strerror(number))

    def notes(self) -> list[str]:
        """What whoever started the run is told of the refused ones; paths are as the child has
        them."""
        return [
            f"refused, {count}x: {what}: {', '.join(self.paths[what])}"
            for what, count in self.refused.items()
        ]


def _change(caller: Caller, action: str, arguments: Sequence[int]) -> tuple[object, ...]:
    """What is to become of the file, all of it copied from the caller's memory."""
    first, second, third, fourth, *_ = (*arguments, 0, 0, 0, 0)
    if action in ("mode", "watch"):
        return (first & 0xFFFFFFFF,)
    if action == "owner":
        return (first & 0xFFFFFFFF, second & 0xFFFFFFFF)
    if action == "no attribute":
        return (_attribute(caller, first),)
    if action == "attribute":
        if third > _MOST_ATTRIBUTE:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        value = seccomp_notify.read_memory(caller.thread, second, third) if third else b""
        return (_attribute(caller, first), value, fourth & 0xFFFFFFFF)
    return (_times(caller, action, first),)


def _attribute(caller: Caller, address: int) -> bytes:
    name = caller.read_path(address)
    if len(name) >= _MOST_NAME:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    if not name.startswith(_ATTRIBUTES):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return name


def _times(caller: Caller, action: str, address: int) -> bytes | None:
    """A struct timespec[2]; None for now."""
    if address == 0:
        return None
    if action == "seconds":
        data = seccomp_notify.read_memory(caller.thread, address, _UTIMBUF.size)
        accessed, modified = _UTIMBUF.unpack(data)
        return _TIMES.pack(accessed, 0, modified, 0)
    data = seccomp_notify.read_memory(caller.thread, address, _TIMES.size)
    if action == "nanoseconds":
        return data
    values = _TIMES.unpack(data)
    if not all(0 <= part < 1_000_000 for part in values[1::2]):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return _TIMES.pack(values[0], values[1] * 1000, values[2], values[3] * 1000)


def _do(
    held: int, action: str, change: Sequence[object], inotify: int, *, by_descriptor: bool
) -> int | Returned:
    """Change what is held, as the kernel would have."""
    given: tuple = tuple(change)  # type: ignore[type-arg]  # as `_change` made it
    is_link = stat.S_ISLNK(os.fstat(held).st_mode)
    if action == "watch":
        return Returned(file_calls.watch(inotify, held, given[0] & ~_IN_DONT_FOLLOW))
    if action == "owner":
        file_calls.change_owner(held, *given)
    elif action == "mode" and by_descriptor:
        os.fchmod(held, given[0] & 0o7777)
    elif action == "mode" and not is_link:
        os.chmod(file_calls.by_hold(held), given[0] & 0o7777)
    elif action == "attribute" and not is_link:
        file_calls.set_attribute(held, *given)
    elif action == "no attribute" and not is_link:
        file_calls.remove_attribute(held, *given)
    elif action in ("seconds", "microseconds", "nanoseconds"):
        file_calls.change_times(held, *given)
    else:  # symlinks have no mode and none of the attributes that a program may set
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return 0


def _signed(argument: int) -> int:
    """An int of C, of which the kernel looks at the low 32 bits."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
