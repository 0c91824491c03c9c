"""The thread of the child that made a call: its view of the file system, and its rights.

Rules of this file: a path is resolved once, to a descriptor (O_PATH) that all later steps use, so
the checked file is the changed file. It is resolved from the child's own root and working
directory, and with the child's rights, because a child of root's may have dropped them. Linux only;
all functions block and raise OSError.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.sandbox.broker import file_calls, seccomp_notify
from nono_trio.sandbox.launcher.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

AT_FDCWD: Final = -100
_MOST_PATH: Final = 4096  # PATH_MAX, its NUL included
_PAGE: Final = 4096
# A descriptor of the caller's; in our /proc, "self" would be this process.
_OWN_DESCRIPTOR: Final = late_pattern(rb"/(?:proc/(?:self|thread-self|(\d+))|dev)/fd/(\d{1,9})")
_STATUS: Final = late_pattern(r"^(Tgid|NStgid|Uid|Gid|Groups|CapEff):[\t ]*(.*)$", re.MULTILINE)
# The names by which a process finds itself in /proc.
_SELF: Final = late_pattern(rb"/(proc/self|proc/thread-self|dev/fd)(?=/|$)")
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID
_FILE_CAPABILITIES: Final = 0b11111


class Caller(msgspec.Struct, frozen=True):
    """A thread that waits for its call, with the ids that its file accesses have.

    `thread` is its id in our PID namespace. `elsewhere`: it has mounts of its own, so its paths
    differ from ours.
    """

    thread: int
    process: int
    own_name: bytes  # the process' id in its own PID namespace
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int
    elsewhere: bool

    @classmethod
    def of(cls, thread: int, *, elsewhere: bool) -> Caller:
        """Read a thread's ids from /proc; they are valid only while its call waits."""
        with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as file:
            found = dict(_STATUS.findall(file.read()))
        return cls(
            thread=thread,
            process=int(found["Tgid"]),
            own_name=found["NStgid"].split()[-1].encode(),
            uid=int(found["Uid"].split()[3]),
            gid=int(found["Gid"].split()[3]),
            groups=tuple(map(int, found["Groups"].split())),
            capabilities=int(found["CapEff"], 16),
            elsewhere=elsewhere,
        )

    def read_path(self, address: int) -> bytes:
        """Return the path at `address` of its memory."""
        found = b""
        while len(found) < _MOST_PATH:  # never past the page that it ends in
            step = min(_PAGE - (address + len(found)) % _PAGE, _MOST_PATH - len(found))
            piece, end, _ = seccomp_notify.read_memory(
                self.thread, address + len(found), step
            ).partition(b"\0")
            found += piece
            if end:
                return found
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def hold(self, directory: int, path: bytes, *, follow: bool) -> int:
        """Open `path` (O_PATH) as the caller would, relative to its descriptor `directory`."""
        own = _OWN_DESCRIPTOR.fullmatch(path)
        if own is not None and follow and own[1] in (None, self.own_name):
            return self.descriptor(int(own[2]))
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        if not self.elsewhere:
            path = self.in_our_proc(path)
        with ExitStack() as opened:
            start = self._start(directory, path)
            opened.callback(os.close, start)
            if not self.elsewhere:
                with self.acting():
                    return os.open(path, flags, dir_fd=start)
            if not path.startswith(b"/"):
                # The usual case. The path from the root may lead through unsearchable directories.
                with self.acting():
                    try:
                        return file_calls.open_beneath(start, path, flags)
                    except OSError as error:
                        if error.errno != errno.EXDEV:
                            raise
                path = os.readlink(file_calls.by_hold(start)) + b"/" + path
            root = os.open(f"/proc/{self.thread}/root", os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, root)
            with self.acting():
                return file_calls.open_in_root(root, path, flags)

    def descriptor(self, number: int) -> int:
        """Copy the caller's descriptor `number` into this process."""
        return seccomp_notify.copy_descriptor(self.thread, number)

    def in_our_proc(self, path: bytes) -> bytes:
        """Replace "self" in `path` by the caller's own ids; the result is checked afterwards."""
        named = {
            b"proc/self": b"/proc/%d" % self.process,
            b"proc/thread-self": b"/proc/%d/task/%d" % (self.process, self.thread),
            b"dev/fd": b"/proc/%d/fd" % self.process,
        }
        found = _SELF.match(path)
        return path if found is None else named[found[1]] + path[found.end() :]

    def working_directory(self) -> int:
        """Open (O_PATH) the caller's working directory."""
        return os.open(f"/proc/{self.thread}/cwd", os.O_PATH | os.O_CLOEXEC)

    def being(self) -> AbstractContextManager[None]:
        """Act as the caller, and show its ids to other processes (SO_PEERCRED)."""
        return self.acting(effective=True)

    @contextmanager
    def acting(self, *, effective: bool = False) -> Iterator[None]:
        """Give this thread the caller's rights over files for the body.

        Raises PermissionError if the caller is another user and we are not root.
        """
        rights = file_calls.FileRights(
            self.uid, self.gid, self.groups, self.capabilities | ~_FILE_CAPABILITIES
        )
        own = file_calls.FileRights(os.geteuid(), os.getegid(), tuple(os.getgroups()), ~0)
        same = (self.uid, self.gid, {*self.groups}) == (own.uid, own.gid, {*own.groups})
        if same and (self.uid != 0 or self._has_file_capabilities()):
            yield
            return
        with file_calls.file_rights(rights, effective=effective):
            yield

    def _has_file_capabilities(self) -> bool:
        kept = sum(1 << number for number in syscalls.KEPT_CAPABILITIES) & _FILE_CAPABILITIES
        return self.capabilities & kept == kept

    def _start(self, directory: int, path: bytes) -> int:
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if directory != AT_FDCWD and not path.startswith(b"/"):
            return self.descriptor(directory)
        return self.working_directory()
