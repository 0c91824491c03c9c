"""No core dump of the supervisor: its memory holds the child's secrets, and every variable that was
held back from the child. A dump is written to the working directory, which the next cage may read.

Rules: both locks, since a dump that is piped to a program (systemd-coredump) is not stopped by the
limit alone; before the launcher is started; the command gets our caller's limit.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

_callers_limit: int | None = None


def forbid_core_dumps() -> None:
    """Keep this process from dumping its memory, and other processes of its user from reading it.

    Main thread; once or more often.
    """
    global _callers_limit
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if _callers_limit is None:
        _callers_limit = soft
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if sys.platform == "linux":
        from nono_trio.sandbox.launcher.linux import syscalls

        with suppress(OSError):
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def callers_core_limit() -> int:
    """The soft limit on core dumps that we were started with, in bytes (-1: none)."""
    if _callers_limit is not None:
        return _callers_limit
    return resource.getrlimit(resource.RLIMIT_CORE)[0]
