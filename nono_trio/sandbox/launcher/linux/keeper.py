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


def wait_for_init(init: int, started: int, seconds: float | None) -> None:
    """Wait until `init`, a child of this process, has ended.

    Kills it on END_NOW, and `seconds` after a byte from `started` says that the command was
    started.
    """
    # A handle, because the pid may be reused after its end. Never closed: the supervisor may send
    # END_NOW again after the end of `init`, while this process ends the rest of the tree.
    handle = os.pidfd_open(init)

    def kill(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    signal.signal(END_NOW, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [END_NOW])
    if os.read(started, 1) and seconds is not None and not _ends_within(handle, seconds):
        kill()
    os.waitpid(init, 0)


def _ends_within(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
