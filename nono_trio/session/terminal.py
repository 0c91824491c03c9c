"""The terminal: lent to the child's process group while it runs, taken back when it stops or ends.

Why not stay in one group with the child: Ctrl-C would reach supervisor and child both, and the
child's group could not be killed as one. Why not a group of its own without the terminal: the
first read would stop it with SIGTTIN, which looks like a hang.

The terminal is an object that the child shares: nothing here waits for it (no draining, which a
terminal that was stopped never does), and at the end it is put back as it was found.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
from typing import Any

# asm-generic/ioctls.h; None where the system can't be asked.
_TIOCGEXCL: int | None = 0x80045440 if sys.platform == "linux" else None
_INT = struct.Struct("=i")


class Terminal:
    """Our controlling terminal, or none (CI, cron, a closed session)."""

    def __init__(self) -> None:
        try:
            self._descriptor: int | None = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None
        self._modes = self._current_modes()
        self._was_exclusive = self._is_exclusive()

    @property
    def is_ours(self) -> bool:
        """Return whether our process group is in the foreground of a terminal."""
        if self._descriptor is None:
            return False
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return False

    @property
    def exists(self) -> bool:
        """Return whether there is a controlling terminal at all."""
        return self._descriptor is not None

    def take_back(self) -> None:
        """Make our group the foreground again."""
        if self._descriptor is None:
            return
        # From the background, it would stop us. Only here: the child must not inherit it.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # hung up
            os.tcsetpgrp(self._descriptor, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)

    def settle(self) -> None:
        """Put back what the child left: a stopped terminal, an exclusive one, and,
        where it is both our stdin and our stdout, its modes.

        If the modes were changed, input that was typed meanwhile is dropped: it may be the
        terminal's answers to the child's queries, and would be taken for commands. In a pipe to a
        pager the modes are the pager's.
        """
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError, termios.error):
            termios.tcflow(self._descriptor, termios.TCOON)
            if not self._was_exclusive:
                fcntl.ioctl(self._descriptor, termios.TIOCNXCL)
            if self.is_ours and _is_controlling(0) and _is_controlling(1):
                self._restore_modes(self._descriptor)

    def _restore_modes(self, descriptor: int) -> None:
        if self._modes is not None and termios.tcgetattr(descriptor) != self._modes:
            termios.tcsetattr(descriptor, termios.TCSANOW, self._modes)
            termios.tcflush(descriptor, termios.TCIFLUSH)

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

    def _is_exclusive(self) -> bool:
        """Return whether the terminal was exclusive; False if the system can't tell."""
        if self._descriptor is None or _TIOCGEXCL is None:
            return False
        answer = bytearray(_INT.size)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._descriptor, _TIOCGEXCL, answer)
        return bool(_INT.unpack(answer)[0])


def _is_controlling(descriptor: int) -> bool:
    """Return whether a descriptor is our controlling terminal: the calls work on that one only."""
    try:
        os.tcgetpgrp(descriptor)
    except OSError:
        return False
    return True
