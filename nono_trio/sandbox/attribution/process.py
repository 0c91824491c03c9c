"""One process of the cage, by an open descriptor for its directory in /proc.

The descriptor refers to this process for ever: once it has ended every access fails, also when
another process has got its pid. Rules of this file: nothing here waits for the child's objects. It
reads links in /proc and never follows them, and it reads no memory of the child, so neither a dead
file system nor a missing page blocks the reader. Everything raises OSError once the process has
ended, or if the kernel does not allow the access.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.processes import Holder, Program, shown_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_STAT: Final = 1024
_STATE, _START_TIME = 0, 19  # of /proc/PID/stat, behind the name
_IMAGE: Final = slice(42, 49)  # where data, arguments and environment lie: another after an exec
_UID: Final = re.compile(rb"^Uid:\t\d+\t(\d+)", re.MULTILINE)
_PROCESS: Final = re.compile(rb"^Tgid:\t(\d+)", re.MULTILINE)
MAX_SLOTS: Final = 1024  # descriptors remembered of one process


class Process:
    """A process. `pid` is the host's. `slots` are the descriptors of connections that were found
    before, the oldest find first: that descriptor is the most likely to be used again."""

    __slots__ = ("_checked", "_directory", "_holder", "_image", "_stat", "files", "pid", "slots")

    def __init__(self, pid: int) -> None:
        """Hold process `pid`; raises OSError."""
        self.pid = pid
        self.slots: OrderedDict[str, None] = OrderedDict()
        self._holder: Holder | None = None
        self._image: list[bytes] = []
        self._checked = -1
        self._stat = self.files = -1
        self._directory = os.open(f"/proc/{pid}", _DIRECTORY)
        try:
            self.files = os.open("fd", _DIRECTORY, dir_fd=self._directory)
            self._stat = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._directory, self.files, self._stat):
            if descriptor >= 0:
                os.close(descriptor)
        self._directory = self.files = self._stat = -1

    def copy_directory(self) -> int:
        """A descriptor of its own for the directory in /proc, for a thread."""
        return os.dup(self._directory)

    def sockets(self, wanted: Collection[str], *, most: int) -> Iterator[tuple[str, str]]:
        """Look at up to `most` slots; yield descriptor and link of each that is wanted."""
        for descriptor in [*self.slots][:most]:
            link = self._link(descriptor)
            if link in wanted:
                self.slots.move_to_end(descriptor)
                yield descriptor, link

    def holds(self, descriptor: str, link: str) -> bool:
        """Return True if `descriptor` still is this socket."""
        return self._link(descriptor) == link

    def every_socket_of_threads(self, wanted: Collection[str]) -> Iterator[str]:
        """Look at all descriptors of threads, which may have a table of their own, also after the
        first thread has ended; yield the links that are wanted."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with suppress(OSError):
                for descriptor in os.listdir(f"/proc/{self.pid}/task/{thread}/fd"):
                    link = os.readlink(f"/proc/{self.pid}/task/{thread}/fd/{descriptor}")
                    if link in wanted:
                        yield link

    def is_alive(self) -> bool:
        """Return True while it runs."""
        try:
            return self._fields()[_STATE] not in (b"Z", b"X")
        except (OSError, ValueError):
            return False

    def remember(self, descriptor: str) -> None:
        """A socket was found at `descriptor`."""
        self.slots[descriptor] = None
        self.slots.move_to_end(descriptor)
        if len(self.slots) > MAX_SLOTS:
            self.slots.popitem(last=False)

    def _link(self, descriptor: str) -> str:
        try:
            return os.readlink(descriptor, dir_fd=self.files)
        except OSError:
            return ""

    def holder(self, turn: int) -> tuple[Holder, bool]:
        """Return the process with its program, and True if the program is new since the last call.

        The kernel is asked once a `turn`. Raises OSError.
        """
        if self._holder is not None and self._checked == turn:
            return self._holder, False
        fields = self._fields()
        self._checked = turn
        if self._holder is not None and fields[_IMAGE] == self._image:
            return self._holder, False
        self._image = fields[_IMAGE]
        self._holder = Holder(self.pid, int(fields[_START_TIME]), self._uid(), self._program())
        return self._holder, True

    def _fields(self) -> list[bytes]:
        text = os.pread(self._stat, _MOST_STAT, 0)
        return text[text.rindex(b")") + 2 :].split()  # the name before may hold anything

    def _program(self) -> Program:
        try:
            return Program(shown_path(os.readlink("exe", dir_fd=self._directory)))
        except OSError:  # the kernel shows its descriptors, but not its program
            return Program(None, is_settled=True)

    def _uid(self) -> int | None:
        with suppress(OSError):
            descriptor = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                match = _UID.search(os.read(descriptor, 4096))
            finally:
                os.close(descriptor)
            return None if match is None else int(match[1])
        return None


def sockets_of(pid: int) -> list[tuple[str, str]]:
    """Descriptor and link of every socket of a process; raises OSError."""
    files = os.open(f"/proc/{pid}/fd", _DIRECTORY)
    try:
        found = []
        for descriptor in os.listdir(files):
            with suppress(OSError):  # closed meanwhile
                link = os.readlink(descriptor, dir_fd=files)
                if link.startswith("socket:"):
                    found.append((descriptor, link))
        return found
    finally:
        os.close(files)


def image_of(directory: int) -> tuple[str, list[bytes]]:
    """Path and image of the program of a process, to tell whether it has changed since; OSError."""
    descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        text = os.read(descriptor, _MOST_STAT)
    finally:
        os.close(descriptor)
    fields = text[text.rindex(b")") + 2 :].split()
    return os.readlink("exe", dir_fd=directory), fields[_IMAGE]


def process_of(thread: int) -> int:
    """The number of the process that a thread belongs to; raises OSError and ValueError."""
    descriptor = os.open(f"/proc/{thread}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        match = _PROCESS.search(os.read(descriptor, 4096))
    finally:
        os.close(descriptor)
    if match is None:
        raise ValueError("a status without the number of the process")
    return int(match[1])
