"""The launcher outside the finished cage: it waits for PID 1 and keeps the deadline of the run.

Neither the child nor the log can block this process: it reads no file, answers no request and waits
for one process. So the cage ends in time also if the supervisor hangs (its log's file system is
frozen) or is stopped (Ctrl-Z).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

# The supervisor's signal to end the cage. Other programs send SIGTERM, SIGUSR1 or SIGALRM to whole
# groups and cgroups, but not this signal.
END_NOW = getattr(signal, "SIGRTMAX", signal.SIGUSR1)


def wait_for_init(
    init: int, started: int, seconds: float | None, server: int | None = None
) -> None:
    """Wait until `init`, a child of this process, has ended.

    Kills it on END_NOW, and `seconds` after a byte from `started` says that the command was
    started, and at the end of `server` (a pidfd), without which the view finds no file.
    """
    # A handle, because the pid may be reused after its end. Never closed: the supervisor may send
    # END_NOW again after the end of `init`, while this process ends the rest of the tree.
    handle = os.pidfd_open(init)

    def kill(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    signal.signal(END_NOW, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [END_NOW])
    handles = [handle] if server is None else [handle, server]
    if os.read(started, 1) and not _ends_within(handles, seconds):
        kill()
    os.waitpid(init, 0)


def _ends_within(handles: list[int], seconds: float | None) -> bool:
    """Wait until one of them has ended; whether it is the first, within `seconds`."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    ended = poll.poll(None if seconds is None else seconds * 1000)
    return any(handle == handles[0] for handle, _ in ended)
