"""The helper threads that answer a cage's system calls, so that the event loop never blocks.

A call concerns objects of the child: its memory, its sockets, the file systems behind its paths.
Each of them can block the thread that uses it, so the event loop uses none. Rules: one helper waits
at the listener and the others queue behind it, so a call needs no hop to the loop; the number of
helpers is bounded and they serve only this cage, so a child that blocks all of them delays only
itself; a call that must wait for the child (`TryLater`) occupies no helper; helpers that hang are
abandoned at the end.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.sandbox.broker import seccomp_notify
from nono_trio.sandbox.broker.retries import Retries
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from nono_trio.sandbox.broker.seccomp_notify import Notification, Returned

# A helper hangs on a slow file system or by the child's own doing; normally at most a few do.
MAX_HELPERS: Final = 32
FIRST_HELPERS: Final = 2  # one waits at the listener while the other performs a call


class TryLater(Exception):
    """The call would block; of all calls with the same `key` only the oldest is tried again."""

    def __init__(self, key: Hashable) -> None:
        super().__init__("not yet")
        self.key = key


class Helpers:
    """Answers the calls at `listener` with the result of `do`: an errno (0 for success) or a value.

    None lets the kernel perform the call. `is_quick` selects calls that the waiting helper performs
    itself, because a hand-over takes three times as long as a change of a file's mode; if such a
    call hangs, the cage waits for it. `do` runs in a helper. It may raise TryLater; any other
    exception ends `serve`.
    """

    def __init__(
        self,
        listener: int,
        do: Callable[[Notification], int | Returned | None],
        is_quick: Callable[[Notification], bool] = lambda _: False,
    ) -> None:
        self._listener = listener
        self._is_quick = is_quick
        self._do = do
        self._descriptors: tuple[int, ...] = ()
        self._limiter = trio.CapacityLimiter(MAX_HELPERS)
        self._leading = threading.Lock()  # held by the helper that waits at the listener
        self._state = threading.Lock()  # for everything below; never held while waiting
        self._retries: Retries[Notification] = Retries()
        self._helpers = self._busy = 0
        self._grow: Callable[[], None] = lambda: None
        self._ended = False

    async def serve(self) -> None:
        """Answer until cancelled or until the last caller has ended. Raises what `do` raises.

        If cancelled, helpers that hang are abandoned; they send no answers any more.
        """
        # Our own copy: the number must not be reused while a helper hangs.
        self._listener = os.dup(self._listener)
        self._wake, self._wake_end = os.pipe()
        self._descriptors = (self._listener, self._wake, self._wake_end)
        os.set_blocking(self._wake_end, False)
        with suppress(OSError):  # an older kernel is only slower
            seccomp_notify.wake_up_at_once(self._listener)
        token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as helpers:
                self._grow = lambda: token.run_sync_soon(self._start_one, helpers)
                for _ in range(FIRST_HELPERS):
                    self._start_one(helpers)
        finally:
            with self._state:
                self._end()

    def _start_one(self, helpers: trio.Nursery) -> None:
        if not self._ended:
            helpers.start_soon(self._help)

    async def _help(self) -> None:
        await in_thread(self._work, limiter=self._limiter)

    def _work(self) -> None:
        with self._state:
            if self._ended:
                return
            self._helpers += 1
        try:
            while (taken := self._next()) is not None:
                self._serve_one(*taken)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._state:
            self._helpers -= 1
            if self._ended:
                self._end()

    def _end(self) -> None:
        """Let all helpers end; the last of them closes the descriptors."""
        self._ended = True
        if self._helpers:
            self._wake_leader()
            return
        descriptors, self._descriptors = self._descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)

    # -- one helper after the other waits for calls ------------------------------------------------

    def _next(self) -> tuple[Notification, Hashable | None] | None:
        """Return the next call, with its key if it was tried before; None at the end."""
        with self._leading:
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            while True:
                with self._state:
                    if self._ended:
                        return None
                    now = time.monotonic()
                    due = self._retries.take(now)
                    if due is not None:
                        return self._taken(due[1], due[0])
                    next_due = self._retries.next_due()
                pause = None if next_due is None else max(0.0, next_due - now) * 1000
                ready = dict(poll.poll(pause))
                if self._wake in ready:
                    os.read(self._wake, 4096)
                flags = ready.get(self._listener, 0)
                if flags & select.POLLIN:
                    notified = seccomp_notify.receive(self._listener)
                    if notified is None:
                        continue
                    if self._is_quick(notified):
                        with self._state:
                            self._busy += 1
                        self._serve_one(notified, None)
                        continue
                    with self._state:
                        return self._taken(notified, None)
                elif flags:  # all processes under the filter have ended
                    with self._state:
                        self._ended = True

    def _taken(
        self, notified: Notification, key: Hashable | None
    ) -> tuple[Notification, Hashable | None]:
        self._busy += 1
        if self._busy == self._helpers < MAX_HELPERS:
            self._grow()
        return notified, key

    def _wake_leader(self) -> None:
        with suppress(BlockingIOError):  # full: a wake-up is due anyway
            os.write(self._wake_end, b"w")

    # -- what a helper does with a call ------------------------------------------------------------

    def _serve_one(self, notified: Notification, key: Hashable | None) -> None:
        try:
            number: int | Returned | None = self._do(notified)
        except TryLater as later:
            if self._waits(notified, key, later.key):
                return
            number = errno.EAGAIN
        finally:
            with self._state:
                self._busy -= 1
        with self._state:
            if key is not None:
                self._retries.finish(key, time.monotonic())
                self._wake_leader()
            if self._ended:
                return
            if number is None:
                seccomp_notify.let_go_on(self._listener, notified)
            elif isinstance(number, seccomp_notify.Returned):
                seccomp_notify.answer(self._listener, notified, 0, number.value)
            else:
                seccomp_notify.answer(self._listener, notified, number)

    def _waits(self, notified: Notification, before: Hashable | None, key: Hashable) -> bool:
        """Queue a call for another try; return False without room."""
        with self._state:
            now = time.monotonic()
            self._wake_leader()
            if before == key:
                self._retries.postpone(key, notified, now)
                return True
            if before is not None:  # the child has changed its address
                self._retries.finish(before, now)
            return self._retries.add(key, notified, now)
