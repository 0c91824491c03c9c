"""A handle to one process: a signal through it reaches that process or nobody.

A pid alone may have been taken over by somebody else. Linux: a pidfd. macOS has none: a kqueue that
waits for the process' end stands in for it (not tested on a Mac), and the pid is used until then.
That is safe for a child of ours, whose pid stays taken until it is reaped, and leaves a moment for
others: between the end of such a process and our signal its pid would have to come round again.
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
            except ProcessLookupError:  # it is there, as a zombie: kqueue no longer sees it
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
            """Wait until the process has ended, reaped or not. Nothing happens if cancelled."""
            import trio

            while not self.ended_within(0):
                await trio.lowlevel.wait_readable(self._kqueue.fileno())

        def close(self) -> None:
            """Give the handle back; the process is none the wiser."""
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
            """Wait until the process has ended, reaped or not. Nothing happens if cancelled."""
            import trio

            await trio.lowlevel.wait_readable(self._pidfd)

        def close(self) -> None:
            """Give the handle back; the process is none the wiser."""
            os.close(self._pidfd)
