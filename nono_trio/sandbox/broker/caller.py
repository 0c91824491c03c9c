"""A thread of the child, as its supervisor acts in its stead: what it sees, and with what rights.

Rules of this file: a path is resolved once, to a descriptor (O_PATH) that everything after holds
on to, so that what was checked is what is changed; it is resolved from the child's own root and
working directory, and with the rights that the child has there, as a child of root's may have given
up being root. Linux only; everything blocks, and raises OSError.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.sandbox.broker import file_calls, seccomp_notify
from nono_trio.sandbox.launcher.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

AT_FDCWD: Final = -100
_MOST_PATH: Final = 4096  # PATH_MAX, its NUL included
_PAGE: Final = 4096
# A descriptor of the caller's: in our /proc, "self" would be us.
_OWN_DESCRIPTOR: Final = re.compile(rb"/(?:proc/(?:self|thread-self|(\d+))|dev)/fd/(\d{1,9})")
_STATUS: Final = re.compile(r"^(Tgid|NStgid|Uid|Gid|Groups|CapEff):[\t ]*(.*)$", re.MULTILINE)
# What a process calls itself in /proc, where we would find us.
_SELF: Final = re.compile(rb"/(proc/self|proc/thread-self|dev/fd)(?=/|$)")
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID
_FILE_CAPABILITIES: Final = 0b11111


class Caller(NamedTuple):
    """A thread that waits for its call: `thread` as we number it, and the ids that files see.

    `elsewhere`: its mounts are its own, so that its paths mean nothing to us.
    """

    thread: int
    process: int
    own_name: bytes  # its process' number as it knows it
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int
    elsewhere: bool

    @classmethod
    def of(cls, thread: int, *, elsewhere: bool) -> Caller:
        """What /proc says of it; only true while its call waits."""
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
        """The path at `address` of its memory."""
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
        """A descriptor for what it means by `path` below its descriptor `directory`."""
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
                # Nearly always; the way from the root may lead through what it may not search.
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
        """Our own descriptor for what it has open as `number`."""
        return seccomp_notify.copy_descriptor(self.thread, number)

    def in_our_proc(self, path: bytes) -> bytes:
        """`path` with the caller's own numbers for "self": where it leads is judged afterwards."""
        named = {
            b"proc/self": b"/proc/%d" % self.process,
            b"proc/thread-self": b"/proc/%d/task/%d" % (self.process, self.thread),
            b"dev/fd": b"/proc/%d/fd" % self.process,
        }
        found = _SELF.match(path)
        return path if found is None else named[found[1]] + path[found.end() :]

    def working_directory(self) -> int:
        """A descriptor (O_PATH) for where it is."""
        return os.open(f"/proc/{self.thread}/cwd", os.O_PATH | os.O_CLOEXEC)

    def being(self) -> AbstractContextManager[None]:
        """As `acting`, and other processes that ask who did it are told the caller's ids."""
        return self.acting(effective=True)

    @contextmanager
    def acting(self, *, effective: bool = False) -> Iterator[None]:
        """Have this thread of ours do what the body does with the caller's rights over files.

        Raises PermissionError where we are not root and it is somebody else.
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
