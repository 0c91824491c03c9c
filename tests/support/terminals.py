"""A program on a pty, as a person at a keyboard starts it."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from typing import TYPE_CHECKING

from harness import NONO_TRIO, RUN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Sessions


class Terminal:
    """A real pty with a shell-like parent; `seen` has the output so far."""

    def __init__(
        self, sessions: Sessions, *arguments: str, program: Sequence[str] = (NONO_TRIO,)
    ) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(sessions.home)
            os.execvpe(program[0], [*program, *arguments], sessions.environment)
        self.seen = ""

    def wait_for(self, text: str, seconds: float = RUN_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"no {text!r} within {seconds} s in {self.seen!r}")
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(
                    f"the terminal closed without {text!r}: {self.seen!r}"
                ) from None

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def exit_code(self, seconds: float = RUN_SECONDS) -> int:
        """Read to the end, then wait for the program. A full terminal would block its writers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.master], [], [], 0.05)
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace") if ready else ""
            except OSError:  # the last process on the terminal has ended
                break
        pid, status = os.waitpid(self.pid, os.WNOHANG if time.monotonic() >= deadline else 0)
        os.close(self.master)
        if not pid:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"no end within {seconds} s: {self.seen!r}")
        return os.waitstatus_to_exitcode(status)
