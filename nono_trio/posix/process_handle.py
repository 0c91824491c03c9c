"""A handle to one process: a signal sent through it can't reach another process.

A pid alone may have been reused. Linux has pidfds. macOS lacks them: there a kqueue waits for the
process' end (not tested on a Mac), and signals go to the pid until then. That is safe for our own
children, whose pid stays taken until we reap them. For other processes a race remains: the process
ends and its pid is reused between our check and our signal.
"""

from __future__ import annotations

import os
import select
import signal
import sys

if sys.platform == "darwin":

    class ProcessHandle:
        """Opened for a pid; raises ProcessLookupError when there is no such process.

        Raises PermissionError for another user's.
        """

        def __init__(self, pid: int) -> None:
            os.kill(pid, 0)
            self._pid = pid
            self._kqueue = select.kqueue()
            watch = select.kevent(
                pid,
                select.KQ_FILTER_PROC,
                select.KQ_EV_ADD | select.KQ_EV_CLEAR,
                select.KQ_NOTE_EXIT,
            )
            try:
                self._kqueue.control([watch], 0)
                self._ended = False
            except ProcessLookupError:  # a zombie, which kqueue does not see
                self._ended = True

        def signal(self, number: int) -> None:
            """Send a signal; raises ProcessLookupError once the process has ended."""
            if self.ended_within(0):
                raise ProcessLookupError(3, "the process has ended")
            os.kill(self._pid, number)

        def ended_within(self, seconds: float) -> bool:
            """Wait for the process' end, blocking; return whether it has ended."""
            self._ended = self._ended or bool(self._kqueue.control(None, 1, seconds))
            return self._ended

        async def ended(self) -> None:
            """Wait until the process has ended, reaped or not; safe to cancel."""
            import trio

            while not self.ended_within(0):
                await trio.lowlevel.wait_readable(self._kqueue.fileno())

        def close(self) -> None:
            """Close the handle; the process is unaffected."""
            self._kqueue.close()

else:

    class ProcessHandle:
        """Opened for a pid; raises ProcessLookupError when there is no such process."""

        def __init__(self, pid: int) -> None:
            self._pidfd = os.pidfd_open(pid)

        def signal(self, number: int) -> None:
            """Send a signal; raises ProcessLookupError once the process was reaped."""
            signal.pidfd_send_signal(self._pidfd, number)

        def ended_within(self, seconds: float) -> bool:
            """Wait for the process' end, blocking; return whether it has ended."""
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(seconds * 1000))

        async def ended(self) -> None:
            """Wait until the process has ended, reaped or not; safe to cancel."""
            import trio

            await trio.lowlevel.wait_readable(self._pidfd)

        def close(self) -> None:
            """Close the handle; the process is unaffected."""
            os.close(self._pidfd)
