"""The launcher, once the cage is built: outside of it, waiting for its PID 1.

It is the one process that nothing of the child's and nothing of the log's can hold up: it reads no
file, answers nobody, and waits for a process. So it keeps the deadline of the run: the cage ends
also when the supervisor hangs (its log's file system is frozen) or is stopped (Ctrl-Z).
"""

from __future__ import annotations

import contextlib
import os
import signal

# What the supervisor asks with; nobody else sends it, as a service's manager sends SIGTERM to all.
END_NOW = signal.SIGUSR1


def wait_for_init(init: int, started: int, seconds: float | None) -> None:
    """Wait until `init`, a child of ours, has ended. Kills it when the supervisor says so, and
    `seconds` after the command was started, which a byte from `started` tells."""
    handle = os.pidfd_open(init)  # its number may be another's between its end and our knowledge

    def kill(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    for number in (END_NOW, signal.SIGALRM):
        signal.signal(number, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [END_NOW])
    if os.read(started, 1) and seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    os.waitpid(init, 0)
    os.close(handle)
