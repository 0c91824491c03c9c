"""Waiting for many sockets with one task: an edge-triggered epoll that trio waits for as a whole.

trio's own `wait_readable` takes one socket a task and one system call a wait. A tunnel has two
sockets, so it would need two tasks, or an epoll of its own. Here every socket is registered once,
one task (`dispatch`) collects what happened to all of them, and a connection's single task sleeps
until anything happens to either of its sockets: per tunnel about 20 us less of 90.

Rules of this file: edge-triggered means that a socket must be read (or written) until it blocks
before its task waits; `Watch.readable` remembers that it has not been yet. A wake-up that finds
nothing to do is harmless, so all doubts are settled by waking.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

if sys.platform == "darwin":
    from nono_trio.proxy.transport import kqueue as poller
else:
    import select as poller

if TYPE_CHECKING:
    import socket

Side: TypeAlias = Literal["client", "upstream"]

_READ: Final = poller.EPOLLIN | poller.EPOLLRDHUP | poller.EPOLLET
_READ_WRITE: Final = _READ | poller.EPOLLOUT
_READABLE: Final = poller.EPOLLIN | poller.EPOLLRDHUP | poller.EPOLLHUP | poller.EPOLLERR
_ENDING: Final = poller.EPOLLRDHUP | poller.EPOLLHUP | poller.EPOLLERR
_BROKEN: Final = poller.EPOLLHUP | poller.EPOLLERR
_MAX_EVENTS: Final = 512  # taken at once; what is left over wakes the dispatcher again


class Waker:
    """Puts one task to sleep and wakes it; a wake that comes early is kept for the next sleep."""

    __slots__ = ("_task", "_woken")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._woken = False

    def wake(self) -> None:
        """Let the task run again, now or at its next `sleep`."""
        task = self._task
        if task is None:
            self._woken = True
        else:
            self._task = None
            reschedule(task)

    async def sleep(self) -> None:
        """Wait for `wake`. No checkpoint if it came already; if cancelled, no wake is lost."""
        if not self._woken:
            self._task = current_task()
            await wait_task_rescheduled(self._abort)
        self._woken = False  # also those between our wake and now: the caller looks at everything

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


class Watch:
    """One registered socket, and what is known about it.

    `readable`: a read may succeed; whoever reads until it blocks sets it back. `ending`: the peer
    has shut down its side, so a short read is not the last. `broken`: no byte can go either way.
    `failed`: it ended by an error (a reset), so that nobody is left who waits for anything.
    """

    __slots__ = (
        "broken",
        "ending",
        "failed",
        "fd",
        "readable",
        "side",
        "sock",
        "waker",
        "wants_write",
    )

    def __init__(self, sock: socket.socket, side: Side, waker: Waker) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.side: Side = side
        self.waker = waker
        self.readable = False  # registering reports what is there already
        self.ending = False
        self.broken = False
        self.failed = False
        self.wants_write = False

    def note(self, flags: int) -> None:
        """Take over what epoll saw, and wake the task."""
        if flags & _READABLE:
            self.readable = True
            if flags & _ENDING:
                self.ending = True
                self.broken = bool(flags & _BROKEN)
                self.failed = self.failed or bool(flags & poller.EPOLLERR)
        self.waker.wake()


class Readiness:
    """All watched sockets of one proxy. `dispatch` must run for anyone to be woken."""

    def __init__(self) -> None:
        self._epoll = poller.epoll()
        self._watches: dict[int, Watch] = {}

    def watch(self, sock: socket.socket, side: Side, waker: Waker) -> Watch:
        """Register `sock` for reading. Raises OSError when the system has no room for it."""
        watch = Watch(sock, side, waker)
        self._epoll.register(watch.fd, _READ)
        self._watches[watch.fd] = watch
        return watch

    def want_write(self, watch: Watch) -> None:
        """From now on also wake the task when the socket takes bytes again after it was full."""
        if not watch.wants_write:
            watch.wants_write = True
            self._epoll.modify(watch.fd, _READ_WRITE)

    def forget(self, watch: Watch) -> None:
        """Before the socket is closed: the kernel drops the registration, we drop the number."""
        if self._watches.get(watch.fd) is watch:
            del self._watches[watch.fd]

    async def dispatch(self) -> NoReturn:
        """Wake tasks as their sockets become ready, until cancelled."""
        poll, watches, fd = self._epoll.poll, self._watches, self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            for ready, flags in poll(0, _MAX_EVENTS):
                watch = watches.get(ready)
                if watch is not None:
                    watch.note(flags)

    def close(self) -> None:
        """Close the epoll; nobody is woken afterwards."""
        self._epoll.close()
