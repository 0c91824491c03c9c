"""macOS's kqueue with the interface of `select.epoll`, so that epoll.py has one set of rules.

Not tested on a Mac. Rules of this file: a socket has two filters, one for each direction, and
EV_CLEAR makes both edge-triggered; `flags_of` translates a kevent and takes only numbers.
The numbers are those of Darwin's <sys/event.h> and of Linux' <sys/epoll.h>.
"""

from __future__ import annotations

import sys
from typing import Final

EPOLLIN: Final = 0x1
EPOLLOUT: Final = 0x4
EPOLLERR: Final = 0x8
EPOLLHUP: Final = 0x10
EPOLLRDHUP: Final = 0x2000
EPOLLET: Final = 1 << 31

FILTER_READ: Final = -1
FILTER_WRITE: Final = -2
EV_ADD: Final = 0x1
EV_CLEAR: Final = 0x20
EV_ERROR: Final = 0x4000
EV_EOF: Final = 0x8000


def flags_of(kind: int, flags: int, error: int) -> int:
    """Return the epoll flags for one kevent's filter, flags and fflags.

    EV_EOF on the reading filter is the peer's half-close; `error` is then the socket's, if it
    broke. On the writing filter it also follows our own half-close, which ends nothing.
    """
    if flags & EV_ERROR or (flags & EV_EOF and error):
        return EPOLLIN | EPOLLRDHUP | EPOLLERR
    if kind == FILTER_WRITE:
        return EPOLLOUT
    return EPOLLIN | EPOLLRDHUP if flags & EV_EOF else EPOLLIN


if sys.platform == "darwin":
    import select

    class epoll:
        """The methods of `select.epoll` that epoll.py uses."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()

        def register(self, descriptor: int, flags: int) -> None:
            """Watch a descriptor, edge-triggered. Raises OSError."""
            wanted = [FILTER_READ, *([FILTER_WRITE] if flags & EPOLLOUT else [])]
            changes = [select.kevent(descriptor, kind, EV_ADD | EV_CLEAR) for kind in wanted]
            self._kqueue.control(changes, 0)

        modify = register  # adding a filter again changes it, and reports what is there

        def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
            """Return up to `most` events as descriptor and flags, waiting for `timeout` seconds."""
            found = self._kqueue.control(None, most, timeout)
            return [(one.ident, flags_of(one.filter, one.flags, one.fflags)) for one in found]

        def fileno(self) -> int:
            """Return the kqueue's descriptor, which is readable while it holds events."""
            return self._kqueue.fileno()

        def close(self) -> None:
            """Close the kqueue."""
            self._kqueue.close()
