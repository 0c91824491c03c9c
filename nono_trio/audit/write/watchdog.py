"""Watches the appends of a log whose file system may stop answering.

An append is one write on the event loop, because a hop to a thread would cost more than the write.
A file system that is frozen or gone (fsfreeze, a network's) blocks that write, and with it the
loop: signals, decisions and the end of the session wait. Nothing can be recorded then, so nothing
may continue: a thread of its own notices, and ends the child. When the file system answers again,
the session is sealed as usual.
"""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from nono_trio.errors import AuditLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# A working disk answers within a second or two even under load. A queue that stays full this long
# refuses requests already (recorder.QUEUE_SECONDS).
STUCK_SECONDS: Final = 10
LOOK_SECONDS: Final = 1.0


class AppendWatchdog:
    """`with watchdog:` around each append, while `running`.

    Once an append has not returned for STUCK_SECONDS, `stuck` is true and every function of `ends`
    is called, in the watchdog's thread.
    """

    def __init__(self) -> None:
        self.stuck = False
        self.ends: list[Callable[[], None]] = []
        self._append: object | None = None  # what stands for the append that is at work
        self._stopped = threading.Event()

    def __enter__(self) -> None:
        self._append = object()

    def __exit__(self, *_: object) -> None:
        self._append = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch during the body. Raises AuditLost if the system refuses a thread."""
        thread = threading.Thread(target=self._watch, name="append-watchdog", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise AuditLost(f"the audit log can't be watched: {error}") from error
        try:
            yield
        finally:
            self._stopped.set()

    @asynccontextmanager
    async def ending(self, end: Callable[[], None]) -> AsyncIterator[None]:
        """Have `end` called as well, as long as the body runs."""
        self.ends.append(end)
        try:
            yield
        finally:
            self.ends.remove(end)

    def _watch(self) -> None:
        # It counts its looks instead of time: it takes none while the whole process is stopped
        # (Ctrl-Z), so a stop is not mistaken for a disk that hangs.
        seen, looks = None, 0
        while not self._stopped.wait(LOOK_SECONDS):
            now = self._append
            looks = looks + 1 if now is not None and now is seen else 0
            seen = now
            if looks >= STUCK_SECONDS and not self.stuck:
                self.stuck = True
                for end in [*self.ends]:
                    end()
