"""The terminal: lent to the child's process group while it runs, taken back when it stops or ends.

Why not stay in one group with the child: Ctrl-C would reach supervisor and child both, and the
child's group could not be killed as one. Why not a group of its own without the terminal: the
first read would stop it with SIGTTIN, which looks like a hang.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from typing import Any


class Terminal:
    """Our controlling terminal, or none (CI, cron, a closed session)."""

    def __init__(self) -> None:
        try:
            self._descriptor: int | None = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None
        self._modes = self._current_modes()

    @property
    def is_ours(self) -> bool:
        """Whether our process group is in the foreground of a terminal."""
        if self._descriptor is None:
            return False
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return False

    @property
    def exists(self) -> bool:
        """Whether there is a controlling terminal at all."""
        return self._descriptor is not None

    def take_back(self, *, restore_modes: bool) -> None:
        """Make our group the foreground again; `restore_modes` after a child that was killed."""
        if self._descriptor is None:
            return
        # From the background, either call would stop us. Only here: the child must not inherit it.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with contextlib.suppress(OSError, termios.error):  # hung up: nobody is there
            os.tcsetpgrp(self._descriptor, os.getpgrp())
            if restore_modes and self._modes is not None:
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._modes)
        signal.signal(signal.SIGTTOU, before)

    def stop_with_child(self) -> None:
        """Stop our own group, as the shell expects of a job whose program was stopped.

        Returns when the shell continues the job (`fg` or `bg`).
        """
        os.killpg(0, signal.SIGTSTP)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _current_modes(self) -> list[Any] | None:
        if self._descriptor is None:
            return None
        try:
            return termios.tcgetattr(self._descriptor)
        except termios.error:
            return None
