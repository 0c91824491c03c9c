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
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern
from nono_trio.core.log.processes import Holder, Program, shown_path
from nono_trio.sandbox.attribution.image import Image, read_stat

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_CLOEXEC
_MOST_STAT: Final = 1024
_START_TIME: Final = 19  # of /proc/PID/stat, behind the name
_ENDED: Final = (b"Z", b"X")
MOST_THREADS: Final = 64  # looked at for one that lives on after the first one has ended
_UID: Final = late_pattern(rb"^Uid:\t\d+\t(\d+)", re.MULTILINE)
_PROCESS: Final = late_pattern(rb"^Tgid:\t(\d+)", re.MULTILINE)
LOOKS: Final = 32  # readlinks, about 0.1 ms, between two chances to stop
MAX_SLOTS: Final = 1024  # descriptors remembered of one process
MOST_MISSES: Final = 3
LAST_FINDS: Final = 4  # descriptors that a client which asks one by one uses again
NEXT_NUMBERS: Final = 2  # descriptors that a client which keeps its connections uses next


class Places(dict[str, tuple[int, str]]):
    """The places of descriptors: one object each, so that a new socket at one makes none."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    def __missing__(self, descriptor: str) -> tuple[int, str]:
        """Return a new place and keep it."""
        if len(self) >= MAX_SLOTS:
            self.clear()
        self[descriptor] = place = self._pid, descriptor
        return place


class Process:
    """A process. `pid` is the host's; `files` is its open directory of descriptors."""

    __slots__ = (
        "_checked", "_directory", "_highest", "_holder", "_image", "_last", "_lasting",
        "_order", "_slots", "_stat", "_where", "files", "pid",
        "places",
    )  # fmt: skip

    def __init__(self, pid: int) -> None:
        """Hold process `pid`; raises OSError."""
        self.pid = pid
        self.places = Places(pid)
        # The descriptors of connections, the oldest find first, which is likely to be free again.
        # The value counts looks at it that found nothing new since.
        self._slots: dict[str, int] = {}
        # Those at which there was nothing new for MOST_MISSES looks: of connections that stay open.
        self._lasting: dict[str, None] = {}
        self._last: deque[str] = deque(maxlen=LAST_FINDS)
        self._highest = 0
        self._order = [self._last_finds, self._next_numbers, self._oldest_finds]
        self._holder: Holder | None = None
        self._image: Image | None = None
        self._where = ""
        self._checked = -1
        self._stat = self.files = -1
        self._directory = os.open(f"/proc/{pid}", _DIRECTORY)
        try:
            self._stat = os.open("stat", _FILE, dir_fd=self._directory)
            with suppress(PermissionError):  # the first thread has ended
                self.files = os.open("fd", _DIRECTORY, dir_fd=self._directory)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._directory, self.files, self._stat):
            if descriptor >= 0:
                os.close(descriptor)
        self._directory = self.files = self._stat = -1
        if self._image is not None:
            self._image.close()
            self._image = None

    def copy(self) -> tuple[int, Image]:
        """The directory in /proc and the program, with descriptors of their own, for a thread;
        raises OSError."""
        if self._image is None:
            raise AssertionError("a process whose program was not looked at")
        image = self._image.copy()
        try:
            return os.dup(self._directory), image
        except OSError:
            image.close()
            raise

    def sockets(self, wanted: Collection[str], *, most: int) -> tuple[list[tuple[str, str]], int]:
        """Look at up to `most` likely descriptors, until all that is wanted is found; return the
        descriptor and link of each, and how many looks are left."""
        found: list[tuple[str, str]] = []
        seen: set[str] = set()
        files, readlink, left = self.files, os.readlink, len(wanted)
        for number, likely in enumerate(self._order):
            for descriptor in likely():
                if number and descriptor in seen:
                    continue
                if len(seen) == most:
                    return found, 0
                seen.add(descriptor)
                try:
                    link = readlink(descriptor, dir_fd=files)
                except OSError:
                    link = ""
                if link in wanted:
                    found.append((descriptor, link))
                    left -= 1
                    if not left:
                        if number:  # this process will use its descriptors in the same way again
                            self._order.insert(0, self._order.pop(number))
                        return found, most - len(seen)
                elif likely == self._oldest_finds:
                    self._missed(descriptor)
        return found, most - len(seen)

    def _missed(self, descriptor: str) -> None:
        misses = self._slots.get(descriptor)
        if misses is None:
            return
        if misses + 1 < MOST_MISSES:
            self._slots[descriptor] = misses + 1
            return
        del self._slots[descriptor]
        self._lasting[descriptor] = None
        if len(self._lasting) > MAX_SLOTS:
            del self._lasting[next(iter(self._lasting))]

    def _last_finds(self) -> list[str]:
        return [*reversed(self._last)]

    def _next_numbers(self) -> list[str]:
        return [str(self._highest + number) for number in range(1, NEXT_NUMBERS + 1)]

    def _oldest_finds(self) -> list[str]:
        return [*self._slots, *self._lasting]

    def holds(self, descriptor: str, link: str) -> bool:
        """Return True if `descriptor` still is this socket. It may be one of a thread, as
        `sockets_of_threads` gives it."""
        if "/" not in descriptor:
            return self._link(descriptor) == link
        try:
            return os.readlink(descriptor, dir_fd=self._directory) == link
        except OSError:
            return False

    def is_alive(self) -> bool:
        """Return True while it runs."""
        try:
            self._read_stat()
        except (OSError, ValueError):
            return False
        return True

    def remember(self, sockets: Sequence[tuple[str, str]]) -> None:
        """Sockets were found at these descriptors."""
        slots = self._slots
        for descriptor, _ in sockets:
            if slots.pop(descriptor, None) is None:
                if "/" in descriptor:  # of a thread with descriptors of its own
                    continue
                self._highest = max(self._highest, int(descriptor))
                if descriptor in self._lasting:  # they don't last: all in the order of their finds
                    slots = self._slots = dict.fromkeys([*self._lasting, *slots], 0)
                    self._lasting = {}
                    del slots[descriptor]
            slots[descriptor] = 0
        for descriptor, _ in sockets[-LAST_FINDS:]:
            self._last.append(descriptor)
        if len(slots) > MAX_SLOTS:
            self._slots = dict.fromkeys([*slots][-MAX_SLOTS // 2 :], 0)

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
        text = self._read_stat()
        self._checked = turn
        if self._holder is not None and self._image is not None and self._image.is_of(text):
            return self._holder, False
        if self._image is not None:
            self._image.close()
            self._image = None
        self._image = image = Image(self._directory, self._where)
        program = Program(None if image.path is None else shown_path(image.path))
        self._holder = Holder(self.pid, self._start_time(), self._uid(), program)
        return self._holder, True

    def _read_stat(self) -> bytes:
        """The stat of the process, or of a living thread; raises OSError if all have ended."""
        text = os.pread(self._stat, _MOST_STAT, 0)
        if _is_running(text):
            return text
        tasks = os.open("task", _DIRECTORY, dir_fd=self._directory)
        try:
            with os.scandir(tasks) as threads:
                for thread in islice(threads, MOST_THREADS):
                    where = f"task/{thread.name}/"
                    with suppress(OSError):
                        text = read_stat(self._directory, where)
                        if _is_running(text):
                            self._follow(where)
                            return text
        finally:
            os.close(tasks)
        raise ProcessLookupError("the process has ended")

    def _follow(self, where: str) -> None:
        """From now on look at this thread."""
        stat = os.open(f"{where}stat", _FILE, dir_fd=self._directory)
        os.close(self._stat)
        self._stat, self._where = stat, where

    def _start_time(self) -> int:
        text = read_stat(self._directory)
        return int(text[text.rindex(b")") + 2 :].split()[_START_TIME])

    def _uid(self) -> int | None:
        with suppress(OSError):
            descriptor = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                match = _UID.search(os.read(descriptor, 4096))
            finally:
                os.close(descriptor)
            return None if match is None else int(match[1])
        return None


def _is_running(stat: bytes) -> bool:
    behind = stat.rindex(b")") + 2  # the name before may hold anything
    return stat[behind : behind + 1] not in _ENDED


def sockets_of(pid: int) -> Iterator[tuple[str, str]]:
    """Descriptor and link of every socket of a process, and ("", "") at least every LOOKS looks, so
    that who takes them can stop; raises OSError. The number of descriptors is the child's to
    choose, so they are listed while they are taken."""
    files = os.open(f"/proc/{pid}/fd", _DIRECTORY)
    try:
        yield from _sockets_in(files, "")
    finally:
        os.close(files)


def sockets_of_threads(pid: int) -> Iterator[tuple[str, str]]:
    """As `sockets_of` for each thread of a process: one may have a table of descriptors of its own,
    also after the first thread has ended."""
    tasks = os.open(f"/proc/{pid}/task", _DIRECTORY)
    try:
        with os.scandir(tasks) as threads:
            for thread in threads:
                yield "", ""
                with suppress(OSError):  # ended meanwhile
                    files = os.open(f"{thread.name}/fd", _DIRECTORY, dir_fd=tasks)
                    try:
                        yield from _sockets_in(files, f"task/{thread.name}/fd/")
                    finally:
                        os.close(files)
    finally:
        os.close(tasks)


def _sockets_in(files: int, before: str) -> Iterator[tuple[str, str]]:
    with os.scandir(files) as entries:
        for number, entry in enumerate(entries, 1):
            if number % LOOKS == 0:
                yield "", ""
            try:
                link = os.readlink(entry.name, dir_fd=files)
            except OSError:  # closed meanwhile
                continue
            if link.startswith("socket:"):
                yield before + entry.name, link


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
