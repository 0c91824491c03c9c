"""The metadata broker: the supervisor changes modes, owners, attributes and times for the child.

Landlock controls opening a file, not changing its metadata by name. Without this broker, a command
in landlock isolation could make the user's files readable for all users, or its own log unwritable.
And in every cage S_ISGID is harmless on a directory (git and tar need it) but not on a program,
which then runs with its group's rights for every user.

Rules: paths, names and values are read from the child's memory once; a path is opened once, in the
child's view and with its rights, then checked by its real location and changed through that
descriptor; the child's own call never continues. Devices are not changed. All functions block: call
them in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

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
# Other attributes need capabilities that the child lacks and the supervisor may have.
_ATTRIBUTES: Final = (b"user.", b"system.posix_acl_")
_TIMES: Final = struct.Struct("=4q")  # two struct timespec, or timeval
_UTIMBUF: Final = struct.Struct("=2q")
_CHANGEABLE: Final = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK, stat.S_ISFIFO, stat.S_ISSOCK)
MOST_REMEMBERED: Final = 3  # refused paths in the final note; the others are only counted


class _Call(msgspec.Struct, frozen=True):
    """The positions of a call's file arguments, and whether it follows a last symlink."""

    action: str
    directory: int | None = None
    path: int | None = None
    flags: int | None = None
    follow: bool = True
    rest: int = 0  # the position of the first argument with the change


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


class MetadataBroker(msgspec.Struct):
    """Makes the changes that the cage is allowed to make.

    `changed` and `watched`: the cage may change and watch files below these paths (without
    symlinks, "/" for all). `elsewhere`: the child has mounts of its own, which already limit its
    changes. `refused` counts refusals by kind, `paths` has the first paths of each kind.
    """

    changed: Sequence[str]
    watched: Sequence[str]
    elsewhere: bool = False
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    paths: dict[str, list[str]] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        grants: Sequence[tuple[str, str, bool]],
        identities: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        *,
        elsewhere: bool,
    ) -> MetadataBroker:
        """Return the broker of a cage plan; without grants there is no file sandbox.

        A grant is left out if its file is not the one of `identities` any more.
        """
        if elsewhere or not grants:
            return cls(("/",), ("/",), elsewhere)
        found = [(still_at(path, identities.get(path)), access) for path, access, _ in grants]
        resolved = [(path, access) for path, access in found if path is not None]
        changed = [path for path, access in resolved if access != "read"]
        return cls(changed, [path for path, _ in resolved], elsewhere)

    def do(self, listener: int, notified: Notification, call: str) -> int | Returned:
        """Perform the call; return 0 or its value, raise OSError with its errno."""
        form = CALLS[call]
        caller = Caller.of(notified.thread, elsewhere=self.elsewhere)
        with ExitStack() as opened:
            held = self._hold(caller, form, notified.arguments)
            opened.callback(os.close, held)
            change = _change(caller, form.action, notified.arguments[form.rest :])
            inotify = -1
            if form.action == "watch":
                inotify = caller.descriptor(seccomp_notify.as_int(notified.arguments[0]))
                opened.callback(os.close, inotify)
            # The data read so far is the caller's only if the call still waits.
            if not seccomp_notify.is_waiting(listener, notified):
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._judge(held, form.action, change)
            with caller.acting():
                return _do(held, form.action, change, inotify, by_descriptor=form.path is None)

    def _hold(self, caller: Caller, form: _Call, arguments: Sequence[int]) -> int:
        directory = (
            AT_FDCWD if form.directory is None else seccomp_notify.as_int(arguments[form.directory])
        )
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
        """Raise PermissionError for a change that the cage may not make, and count it."""
        mode = os.fstat(held).st_mode
        path = os.readlink(file_calls.by_hold(held)).decode("utf-8", "surrogateescape")
        if action == "mode" and isinstance(change[0], int):
            wanted = change[0] & (stat.S_ISUID | (0 if stat.S_ISDIR(mode) else stat.S_ISGID))
            if wanted:
                self._refuse("set-user-id and set-group-id files", path, errno.EPERM)
        if self.elsewhere or not path.startswith("/"):  # a pipe or a socket of the child's own
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
        """Return notes about refusals for the user; paths are as the child sees them."""
        return [
            f"refused, {count}x: {what}: {', '.join(self.paths[what])}"
            for what, count in self.refused.items()
        ]


def _change(caller: Caller, action: str, arguments: Sequence[int]) -> tuple[object, ...]:
    """Copy the arguments of the change from the caller's memory."""
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
    """Return a struct timespec[2]; None stands for the current time."""
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
    """Change the held file as the kernel would."""
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
