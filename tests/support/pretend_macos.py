"""Linux that pretends to be macOS: without Linux' names, with macOS' names, with nono-py recorded.

It tests the code that must not depend on Linux: every module imports, and launcher, supervisor and
proxy work together. It does not test Seatbelt, special cases of a real kqueue, BSD's sockets or a
Mac's paths. The kqueue here uses epoll, and a file gets the calls that nono-py would make.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
from types import SimpleNamespace

_EPOLL, _PIDFD_OPEN = select.epoll, os.pidfd_open
_IN = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_READING = select.EPOLLIN | select.EPOLLRDHUP
_OUT, _EDGE, _ERROR = select.EPOLLOUT, select.EPOLLET, select.EPOLLERR
READ, WRITE, PROC = -1, -2, -5
ADD, CLEAR, EOF, NOTE_EXIT = 0x1, 0x20, 0x8000, 0x80000000

GONE = {
    os: ("O_PATH", "fdatasync", "pidfd_open", "pipe2", "waitid"),
    select: ("epoll", *(name for name in dir(select) if name.startswith("EPOLL"))),
    signal: ("pidfd_send_signal",),
    socket: ("AF_NETLINK", "MSG_MORE", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_DEFER_ACCEPT"),
}


def kevent(ident, filter=READ, flags=ADD, fflags=0):
    return SimpleNamespace(ident=ident, filter=filter, flags=flags, fflags=fflags)


class Kqueue:
    """The sockets and processes of one queue, all edge-triggered."""

    def __init__(self):
        self._epoll = _EPOLL()
        self._filters: dict[int, int] = {}
        self._processes: dict[int, int] = {}

    def control(self, changes, most, timeout=None):
        for change in changes or ():
            assert change.flags == ADD | CLEAR
            if change.filter == PROC:
                descriptor = _PIDFD_OPEN(change.ident)
                self._processes[descriptor] = change.ident
                self._epoll.register(descriptor, _IN | _EDGE)
            else:
                self._add(change.ident, _OUT if change.filter == WRITE else _READING)
        found = self._epoll.poll(timeout, most) if most else []
        return [event for descriptor, flags in found for event in self._events(descriptor, flags)]

    def _add(self, descriptor, bits):
        known = self._filters.get(descriptor, 0)
        self._filters[descriptor] = known | bits
        try:
            self._epoll.register(descriptor, known | bits | _EDGE)
        except FileExistsError:
            self._epoll.modify(descriptor, known | bits | _EDGE)

    def _events(self, descriptor, flags):
        if descriptor in self._processes:
            yield kevent(self._processes[descriptor], PROC, CLEAR, NOTE_EXIT)
            return
        if flags & _IN:
            broken = errno.ECONNRESET if flags & _ERROR else 0
            yield kevent(descriptor, READ, CLEAR | (EOF if flags & _ENDED else 0), broken)
        if flags & _OUT:
            yield kevent(descriptor, WRITE, CLEAR)

    def fileno(self):
        return self._epoll.fileno()

    def close(self):
        for descriptor in self._processes:
            os.close(descriptor)
        self._epoll.close()


def take_names_away() -> None:
    """Make this process look like one on macOS. Code that needs epoll must keep it before."""
    for module, names in GONE.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = "darwin"
    select.kqueue, select.kevent = Kqueue, kevent
    select.KQ_FILTER_PROC, select.KQ_NOTE_EXIT = PROC, NOTE_EXIT
    select.KQ_EV_ADD, select.KQ_EV_CLEAR = ADD, CLEAR
    fcntl.F_FULLFSYNC = 51  # Linux does not know it: EINVAL


class Library:
    """The part of nono-py that the launcher uses; `apply` writes the calls to a file."""

    AccessMode = SimpleNamespace(READ="read", WRITE="write", READ_WRITE="readwrite")

    def __init__(self, record: str) -> None:
        self._record = record

    def CapabilitySet(self) -> CapabilitySet:
        return CapabilitySet()

    def apply(self, capabilities) -> None:
        if not self._record:
            raise RuntimeError("sandbox_init returned error code -1")
        with open(self._record, "w") as file:
            json.dump(capabilities.calls, file)


class CapabilitySet:
    def __init__(self) -> None:
        self.calls: list = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append([name, *arguments])


def launcher_program(record: str) -> str:
    """The program that the supervisor starts: the launcher, on what looks like macOS."""
    from nono_trio.sandbox import spawn

    here = os.path.dirname(os.path.abspath(__file__))
    return (
        f"import sys; sys.path.append({here!r}); import pretend_macos as macos;"
        f" del sys.path[-1]; macos.take_names_away(); {spawn.LOAD_LAUNCHER};"
        " from nono_trio_launcher import nono_py;"
        f" nono_py.load_library = lambda _: macos.Library({record!r}); {spawn.RUN_LAUNCHER}"
    )


def main(record: str) -> None:
    """Run the command line on what looks like macOS; only trio keeps its epoll."""
    import trio

    trio._core._io_epoll.select = SimpleNamespace(**vars(select))
    take_names_away()
    from nono_trio.sandbox import spawn

    spawn.BOOTSTRAP = launcher_program(record)
    from nono_trio.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main(sys.argv.pop(1))
