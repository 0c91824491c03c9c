"""A limit on where signals go: with it, one kill(-1) ends a tree, and reaches nothing else.

Without a PID namespace the tree of a cage is found by walks over /proc, and processes that continue
each other may start new ones faster than they are found. kill(-1) reaches every process that may be
signalled at once, and none of them can fork meanwhile. A Landlock domain which only limits signals
(Linux 6.12) makes that the tree: this process, and all that it starts from then on.

Rules of this file: kill(-1) would end everything of the user (of the machine, for root) without the
limit. So it counts as set only if the kernel took it, and a signal to the parent is then refused.
"""

from __future__ import annotations

import os

from . import syscalls


def enter_signal_scope() -> bool:
    """Limit the signals of this process, and of all that it starts, to these processes.

    Returns whether kill(-1) reaches those alone. It can't be undone, and one may follow another:
    the inner one reaches less. Needs a parent that may be signalled before.
    """
    try:
        os.kill(os.getppid(), 0)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.scope_signals()
    except OSError:  # an older kernel, or Landlock is off
        return False
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False
