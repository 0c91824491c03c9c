"""Our lines on stderr while a session lives: written by a thread, to a descriptor of our own.

The child shares our stderr. It can stop the terminal (TCOOFF), fill the pipe, make the pipe
non-blocking or take O_APPEND from the file, and our writes then wait, fail, or overwrite.
Rules: the event loop never writes, it queues; the queue is bounded, and counts its losses; what
can be opened anew is, so that flags of the child's do not count; what can't is written with
patience. Should nothing come through at all, exit code and session still say how the run went.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import termios
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final

# Lines wait here while the terminal is stopped; more than a person reads when it goes on.
MAX_LINES: Final = 2000
# At the end of a run, for a reader that pauses (a pager). The session has it all.
FINISH_SECONDS: Final = 30.0
_RETRY_MILLISECONDS: Final = 200


class SteadyOutput:
    """Lines to `descriptor`, in order, without ever holding up who says them. Thread-safe."""

    def __init__(self, descriptor: int = 2) -> None:
        """Raises OSError where nothing is open as `descriptor`."""
        self._descriptor = _opened_anew(descriptor)
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._writing = False
        self._thread: threading.Thread | None = None

    def write_line(self, line: str) -> None:
        """Queue one line; dropped, and counted, when too many wait."""
        with self._changed:
            if len(self._lines) >= MAX_LINES:
                self._dropped += 1
                return
            if self._dropped:
                self._lines.append(b"nono-trio: %d lines were not shown\n" % self._dropped)
                self._dropped = 0
            self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
            self._start()
            self._changed.notify_all()

    def finish(self, seconds: float = FINISH_SECONDS) -> bool:
        """Wait until everything is written; False if it was not in time. Blocking.

        If the system still refuses a thread, the caller's own writes the lines.
        """
        if os.isatty(self._descriptor):
            with suppress(termios.error):  # the child is gone: what it stopped goes on
                termios.tcflow(self._descriptor, termios.TCOON)
        until = time.monotonic() + seconds
        with self._changed:
            if self._lines:
                self._start()
            if self._thread is None:
                return self._write_here(until)
            while self._lines or self._writing:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return False
        return True

    def _start(self) -> None:
        """Start the thread; if the system refuses one, the next line tries again."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="stderr", daemon=True)
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def _write_here(self, until: float) -> bool:
        """Write what is queued, only while the descriptor takes it; False if not in time."""
        remaining = b"".join(self._lines)
        self._lines.clear()
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while remaining:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return False
            try:
                # A pipe that is ready takes as many bytes without waiting.
                remaining = remaining[os.write(self._descriptor, remaining[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
            except OSError:  # the reader has gone
                return True
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._writing = False
                    self._changed.notify_all()
                    self._changed.wait()
                self._writing = True
                data = b"".join(self._lines)
                self._lines.clear()
            with suppress(OSError):  # the reader has gone
                self._write(data)

    def _write(self, data: bytes) -> None:
        remaining = memoryview(data)
        while remaining:
            try:
                remaining = remaining[os.write(self._descriptor, remaining) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(_RETRY_MILLISECONDS)


def _opened_anew(descriptor: int) -> int:
    """A descriptor with flags of our own for what is open as `descriptor`, or else a copy of it.

    A file that was not opened to append keeps its one position for us and the child: a second one
    would have us overwrite each other.
    """
    status = os.fstat(descriptor)
    append = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    if sys.platform == "linux" and (append or not stat.S_ISREG(status.st_mode)):
        # Without blocking: a write to a pipe without a reader would wait.
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK | append
        with suppress(OSError):
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
            os.set_blocking(own, True)
            return own
    return os.dup(descriptor)
