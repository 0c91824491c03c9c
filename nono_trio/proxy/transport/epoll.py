"""Waiting for many sockets with one task: an edge-triggered epoll that trio waits for as a whole.

trio's own `wait_readable` takes one socket a task and one system call a wait. A tunnel has two
sockets, so it would need two tasks, or an epoll of its own. Here every socket is registered once,
one task (`dispatch`) collects the events of all sockets, and the one task of a connection sleeps
until there is an event for either of its sockets. That saves about 20 us of a tunnel's 90.

Rules of this file: it notes what the kernel reports and wakes the task; transport.py has the rules
for reads and writes. A wake-up without anything to do is harmless, so in doubt a task is woken.
"""

from __future__ import annotations

import sys
from typing import Final, Literal, NoReturn, TypeAlias

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

if sys.platform == "darwin":
    from nono_trio.proxy.transport import kqueue as poller
else:
    import select as poller

Side: TypeAlias = Literal["client", "upstream"]

_READ: Final = poller.EPOLLIN | poller.EPOLLRDHUP | poller.EPOLLET
_READ_WRITE: Final = _READ | poller.EPOLLOUT
_READABLE: Final = poller.EPOLLIN | poller.EPOLLRDHUP | poller.EPOLLHUP | poller.EPOLLERR
_ENDING: Final = poller.EPOLLRDHUP | poller.EPOLLHUP | poller.EPOLLERR
_BROKEN: Final = poller.EPOLLHUP | poller.EPOLLERR
_MAX_EVENTS: Final = 512  # taken at once; further events wake the dispatcher again


class Waker:
    """Puts one task to sleep and wakes it. A wake before the sleep ends the next sleep at once."""

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
        self._woken = False  # also wakes since the first one: the caller tries all its transports

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


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
        """Note an event of epoll's, and wake the task."""
        if flags & _READABLE:
            self.readable = True
            if flags & _ENDING:
                self.ending = True
                self.broken = bool(flags & _BROKEN)
                self.failed = self.failed or bool(flags & poller.EPOLLERR)
        self.waker.wake()


class Readiness:
    """All watched sockets of one proxy. Tasks are woken only while `dispatch` runs."""

    def __init__(self) -> None:
        self._epoll = poller.epoll()
        self._watches: dict[int, Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def register(self, descriptor: int, watch: Watch) -> None:
        """Watch a socket for reading; what is there already is reported, too. Raises OSError when
        the system has no room for it (fs.epoll.max_user_watches)."""
        self._epoll.register(descriptor, _READ)
        self._watches[descriptor] = watch

    def add_write(self, descriptor: int) -> None:
        """From now on also report when the socket takes bytes again after it was full; if it takes
        some already, that is reported at once. Raises OSError."""
        self._epoll.modify(descriptor, _READ_WRITE)

    def forget(self, descriptor: int) -> None:
        """Report nothing more. The kernel drops the registration when the socket is closed."""
        self._watches.pop(descriptor, None)

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
        """Close the epoll; no task is woken afterwards."""
        self._epoll.close()
