"""Waiting for many sockets with one task: an edge-triggered epoll that trio waits for as a whole.

trio's own `wait_readable` takes one socket a task and one system call a wait. A tunnel has two
sockets, so it would need two tasks, or an epoll of its own. Here every socket is registered once,
one task (`dispatch`) collects the events of all sockets, and a connection sleeps until there is an
event for either of its sockets. A connection that has no task yet goes on right there, in a step
(steps.py).

Rules of this file: it notes what the kernel reports and wakes the connection; transport.py has the
rules for reads and writes. A wake-up without anything to do is harmless, so in doubt there is one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

import trio

from nono_trio.steps import StepQueue

if sys.platform == "darwin":
    from nono_trio.proxy.transport import kqueue as poller
else:
    import select as poller

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.waker import Waker

Side: TypeAlias = Literal["client", "upstream"]

_READ: Final = poller.EPOLLIN | poller.EPOLLRDHUP | poller.EPOLLET
_READ_WRITE: Final = _READ | poller.EPOLLOUT
_READABLE: Final = poller.EPOLLIN | poller.EPOLLRDHUP | poller.EPOLLHUP | poller.EPOLLERR
_ENDING: Final = poller.EPOLLRDHUP | poller.EPOLLHUP | poller.EPOLLERR
_BROKEN: Final = poller.EPOLLHUP | poller.EPOLLERR
_FAILED: Final = poller.EPOLLERR
_MAX_EVENTS: Final = 512  # taken at once; further events wake the dispatcher again
_MOST_LOOKS: Final = 8  # for events, before all other tasks get their turn


class Watch:
    """The state of one registered socket.

    `readable`: a read may succeed; a read that empties the socket clears it (transport.py).
    `ending`: the peer has shut down its side, so a short read is not the last. `broken`: no byte
    can go either way. `failed`: it ended by an error (a reset), so no peer waits for bytes.
    """

    __slots__ = ("broken", "ending", "failed", "readable", "side", "waker")

    def __init__(self, side: Side, waker: Waker) -> None:
        self.side: Side = side
        self.waker = waker
        self.readable = False
        self.ending = False
        self.broken = False
        self.failed = False

    def note(self, flags: int) -> None:
        """Note an event of epoll's, and wake the connection."""
        if flags & _READABLE:
            self.readable = True
            if flags & _ENDING:
                self.ending = True
                if flags & _BROKEN:
                    self.broken = True
                    if flags & _FAILED:
                        self.failed = True
        self.waker.wake()


class Readiness:
    """All watched sockets of one proxy. Connections are woken only while `dispatch` runs."""

    def __init__(self) -> None:
        self.steps = StepQueue()
        """The connections that have no task."""
        self._epoll = poller.epoll()
        self._watches: dict[int, Watch] = {}
        self._listeners: dict[int, Callable[[], object]] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def register(self, descriptor: int, watch: Watch) -> None:
        """Watch a socket for reading; what is there already is reported, too. Raises OSError when
        the system has no room for it (fs.epoll.max_user_watches)."""
        self._epoll.register(descriptor, _READ)
        self._watches[descriptor] = watch

    def listen(self, descriptor: int, on_arrival: Callable[[], object]) -> None:
        """Call `on_arrival`, which must neither wait nor raise, when connections have come to a
        listener. It must accept until no more wait, or have another task do so. Raises
        OSError."""
        self._epoll.register(descriptor, _READ)
        self._listeners[descriptor] = on_arrival

    def stop_listening(self, descriptor: int) -> None:
        """As `forget`, for a listener."""
        self._listeners.pop(descriptor, None)

    def add_write(self, descriptor: int) -> None:
        """From now on also report when the socket takes bytes again after it was full; if it takes
        some already, that is reported at once. Raises OSError."""
        self._epoll.modify(descriptor, _READ_WRITE)

    def forget(self, descriptor: int) -> None:
        """Report nothing more. The kernel drops the registration when the socket is closed."""
        self._watches.pop(descriptor, None)

    async def dispatch(self) -> NoReturn:
        """Wake connections as their sockets become ready, until cancelled."""
        poll, watches, fd = self._epoll.poll, self._watches, self._epoll.fileno()
        listeners, steps = self._listeners, self.steps
        while True:
            await trio.lowlevel.wait_readable(fd)
            ends = steps.begin_turn()  # of all these looks together
            for _ in range(_MOST_LOOKS):
                events = poll(0, _MAX_EVENTS)
                if not events:
                    break
                steps.is_held = True
                for ready, flags in events:
                    watch = watches.get(ready)
                    if watch is not None:
                        watch.note(flags)
                    elif (on_arrival := listeners.get(ready)) is not None:
                        on_arrival()
                watch = None  # else the last one is held until the next event
                if not steps.run_due(ends):
                    break

    def close(self) -> None:
        """Close the epoll; no connection is woken afterwards."""
        self._epoll.close()
