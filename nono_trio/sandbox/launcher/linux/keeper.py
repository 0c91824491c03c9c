"""The launcher, once the cage is built: outside of it, waiting for its PID 1.

It is the one process that nothing of the child's and nothing of the log's can hold up: it reads no
file, answers nobody, and waits for a process. So it keeps the deadline of the run: the cage ends
also when the supervisor hangs (its log's file system is frozen) or is stopped (Ctrl-Z).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

# What the supervisor asks with. Others send to everybody in a group or in a service's cgroup what a
# program may expect (SIGTERM, SIGUSR1, SIGALRM); nobody sends this one.
END_NOW = getattr(signal, "SIGRTMAX", signal.SIGUSR1)


def wait_for_init(init: int, started: int, seconds: float | None) -> None:
    """Wait until `init`, a child of ours, has ended. Kills it when the supervisor says so, and
    `seconds` after the command was started, which a byte from `started` tells."""
    # Its number may be another's between its end and our knowledge. Never closed: the supervisor
    # may ask once more when `init` has gone, while what is left of the tree is ended.
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
