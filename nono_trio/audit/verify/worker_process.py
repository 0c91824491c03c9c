"""Starts the processes that check parts of a log, perhaps before this one has imported what it
needs itself.

Rules of this file: it imports little, so that `audit verify` can start them first, and both import
at once. A process is a new interpreter (never a fork: an embedding program may have threads) with
one end of a socket. It gets the open log over that (part_worker.py), and ends when the other end is
closed.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import nono_trio
from nono_trio.startup import library_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

# About 20,000 records: below, the start of another process costs more than it gains.
LEAST_FOR_JOBS: Final = 16 * 1024 * 1024
# The joiner folds the attempts of all parts: more processes would wait for it.
MOST_AUTOMATIC_JOBS: Final = 4
# For this process itself: modules that it imports, the log, and the files beside it.
SPARE_DESCRIPTORS: Final = 32

_PACKAGE_PARENT: Final = os.path.dirname(os.path.dirname(os.path.abspath(nono_trio.__file__)))
# As startup.py: only the package, and none of its neighbours.
_BOOTSTRAP: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; sys.path.insert(0, sys.argv[2]); import nono_trio;"
    " del sys.path[0]; from nono_trio.audit.verify.part_worker import work; work(int(sys.argv[1]))"
)


class WorkerProcess:
    """One process; raises OSError if it can't be started."""

    def __init__(self) -> None:
        import socket  # late: few logs are long

        self.socket, theirs = socket.socketpair()
        try:
            _require_spare_descriptors(theirs.fileno())
            theirs.set_inheritable(True)
            argv = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOTSTRAP]
            argv += [str(theirs.fileno()), _PACKAGE_PARENT, *filter(None, sys.path)]
            kept = [signal.SIGINT]  # from it: Ctrl-C reaches the joiner, which ends it
            self.pid = os.posix_spawn(sys.executable, argv, library_environment(), setsigmask=kept)
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def end(self) -> None:
        """Kill and reap the process."""
        self.socket.close()
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _require_spare_descriptors(any_open: int) -> None:
    """Raise OSError if this process could not open SPARE_DESCRIPTORS more; it tries, because the
    open ones may have any numbers."""
    spare = list[int]()
    try:
        while len(spare) < SPARE_DESCRIPTORS:
            spare.append(os.dup(any_open))
    finally:
        for descriptor in spare:
            os.close(descriptor)


_early: Final = list[WorkerProcess]()


@contextmanager
def early_workers(size: int, jobs: int | None) -> Iterator[None]:
    """Start the processes for a log of that many bytes, if it is long; `jobs` is as in
    `verify`. Those that were not taken are gone at the end."""
    if size >= LEAST_FOR_JOBS:
        with suppress(OSError):  # no room for another process
            for _ in range((jobs or automatic_jobs(size)) - 1):
                _early.append(WorkerProcess())
    try:
        yield
    finally:
        while _early:
            _early.pop().end()


def take_worker() -> WorkerProcess:
    """Return a process that was started early, or else a new one; raises OSError."""
    return _early.pop() if _early else WorkerProcess()


def automatic_jobs(size: int) -> int:
    """Return the number of processes for a log of that many bytes, this one among them."""
    if os.geteuid() != os.getuid():  # we act as a user who may not be allowed to start the program
        return 1
    return 1 if size < LEAST_FOR_JOBS else min(_usable_cpus(), MOST_AUTOMATIC_JOBS)


if sys.platform == "linux":

    def _usable_cpus() -> int:
        return len(os.sched_getaffinity(0))

else:

    def _usable_cpus() -> int:
        return os.cpu_count() or 1
