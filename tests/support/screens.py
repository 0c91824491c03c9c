"""A command of ours in this process, with a real pty of a given size as its output."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.cli import main

if TYPE_CHECKING:
    import pytest

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ROWS = 24


class Shown(NamedTuple):
    """The exit code of a command, and all that the terminal got."""

    code: int
    raw: str

    @property
    def text(self) -> str:
        """Without the colours."""
        return COLOUR.sub("", self.raw)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Screen:
    """stdout and stderr of this process on a terminal, as long as a command runs."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, columns: int = 80, encoding: str = "utf-8"
    ) -> None:
        self._monkeypatch = monkeypatch
        self._encoding = encoding
        self._columns = columns
        for name in ("NO_COLOR", "CI", "COLUMNS", "LINES"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")

    def run(self, *arguments: object) -> Shown:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, self._columns, 0, 0))
        seen: list[bytes] = []
        reader = threading.Thread(target=_read, args=(master, seen))
        reader.start()
        stream = os.fdopen(
            slave, "w", encoding=self._encoding, errors="backslashreplace", buffering=1
        )
        try:
            with self._monkeypatch.context() as patched:
                patched.setattr(sys, "stdout", stream)
                patched.setattr(sys, "stderr", stream)
                code = main.exit_code([str(argument) for argument in arguments])
        finally:
            stream.close()
            reader.join()
            os.close(master)
        return Shown(code, b"".join(seen).decode().replace("\r\n", "\n"))


def _read(master: int, seen: list[bytes]) -> None:
    """Read until the last descriptor of the terminal's other side is closed."""
    while True:
        try:
            seen.append(os.read(master, 65_536))
        except OSError:
            return
