"""Runs the command line of a cmd:// source once, outside of any cage.

Rules of this file:
- The words are those of the user. The program is found once, at the start.
- It gets no terminal and no input. How it is run and ended is in posix/bounded_command.py.
- What it prints on stderr is for its user, at the start of a session: it may have a secret, as a
  shell's trace has, so it is apart from the reason of an error. It is cut, loses its control
  characters, and is left out if it has what was printed on stdout.
- No error has the command line, which may have a password in it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.shape import MAX_SECRET, MIN_SECRET
from nono_trio.posix import bounded_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS: Final = 10.0  # for a tool that asks a server; one that waits for a person never ends
START_SECONDS: Final = bounded_command.START_SECONDS
MAX_STDERR: Final = 2048  # bytes that are kept of it
MAX_SHOWN: Final = 200  # characters of it in an error
_LINE_END: Final = 2  # bytes after the secret


class CommandFailed(Exception):
    """The command line gave no secret. `reason` is a sentence without the secret; `said` is what
    the command printed on stderr."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.said = said


def find_program(word: str, environment: Mapping[str, str]) -> str | None:
    """Return the absolute path of the program, as a shell would find it; None without one."""
    found = shutil.which(word, path=environment.get("PATH", os.defpath))
    return None if found is None else os.path.abspath(found)


class CommandLine:
    """A command line that may be run again and again, by one thread at a time."""

    def __init__(self, program: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = bounded_command.BoundedCommand(
            words,
            environment,
            most=MAX_SECRET + _LINE_END,
            most_errors=MAX_STDERR,
            program=program,
        )

    def __repr__(self) -> str:
        return "CommandLine(...)"

    def output(self) -> bytes:
        """Run it; return what it printed. Blocks for SECONDS and a moment at most. Raises
        CommandFailed."""
        try:
            answer = self._command.ask(b"", SECONDS)
        except bounded_command.PrintedTooMuch:
            raise CommandFailed(f"it printed more than {MAX_SECRET} bytes") from None
        except bounded_command.CommandFailed as failed:
            raise CommandFailed(f"it {failed}") from None
        if answer.code != 0:
            raise CommandFailed(_ended(answer.code), _shown(answer.errors, answer.output))
        return answer.output

    def stop(self) -> None:
        """End it, and run it never again; from any thread. Blocks for START_SECONDS at most."""
        self._command.stop(START_SECONDS)


def _ended(code: int) -> str:
    if code < 0:
        return f"it was ended by signal {-code}"
    return f"it ended with exit code {code}"


def _shown(errors: bytes, output: bytes) -> str:
    """Return what an error may show of stderr."""
    text = errors.decode("utf-8", "replace")
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    words = [word for word in output.split() if len(word) >= MIN_SECRET]
    if not text or any(word in errors for word in words):
        return ""
    return text[:MAX_SHOWN] + ("..." if len(text) > MAX_SHOWN else "")
