"""Asks a command: bytes on its stdin, its answer on stdout, both bounded, within a deadline.

Rules of this file: it blocks, so it is called in a thread. The command is a group of its own, so
Ctrl-C does not end it; if it is late or prints too much, it is killed with all that it has started
(command_family.py). Its stderr is dropped.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from typing import TYPE_CHECKING, Final

from nono_trio.posix.command_family import kill_family, with_mark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_REAP_SECONDS: Final = 1.0  # a process that waits for a dead file system can't be killed


class CommandFailed(Exception):
    """There is no answer; the text goes on after the name of the command: "did not ..."."""


def ask_command(
    words: Sequence[str], data: bytes, environment: Mapping[str, str], *, seconds: float, most: int
) -> tuple[int, bytes]:
    """Return the exit code of a command and what it printed, at most `most` bytes.

    Raises CommandFailed if it can't be started, prints more, or does not end within `seconds`.
    """
    until = time.monotonic() + seconds
    marked, mark = with_mark(environment)
    try:
        process = subprocess.Popen(
            [*words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=marked,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"can't be started: {error.strerror}") from error
    try:
        answer = _exchange(process, data, until, most)
        code = None if answer is None else _ended(process, until)
    finally:
        _end(process, mark)
    if answer is None or code is None:
        raise CommandFailed(f"did not answer within {seconds:.0f} s")
    return code, answer


def _exchange(
    process: subprocess.Popen[bytes], data: bytes, until: float, most: int
) -> bytes | None:
    """Write `data`, return what the process prints until it closes stdout; None if late."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("pipes were asked for")
    answer, rest = b"", memoryview(data)
    sending, receiving = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(sending, False)
    with selectors.DefaultSelector() as ready:
        ready.register(receiving, selectors.EVENT_READ)
        ready.register(sending, selectors.EVENT_WRITE)
        while len(answer) <= most:
            left = until - time.monotonic()
            events = ready.select(left) if left > 0 else []
            if not events:
                return None
            for key, _ in events:
                if key.fd == receiving:
                    chunk = os.read(receiving, most + 1)
                    if not chunk:
                        return answer
                    answer += chunk
                    continue
                try:
                    rest = rest[os.write(sending, rest) :]
                except OSError:  # it does not read: its answer and exit code decide
                    rest = rest[:0]
                if not rest:
                    ready.unregister(sending)
                    process.stdin.close()
    raise CommandFailed(f"printed more than {most} bytes")


def _ended(process: subprocess.Popen[bytes], until: float) -> int | None:
    try:
        return process.wait(max(until - time.monotonic(), 1.0))  # it has closed its stdout
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill a process that has not ended, with what it has started, and close its pipes."""
    if process.returncode is None:
        kill_family(process.pid, mark)
        with contextlib.suppress(subprocess.TimeoutExpired):  # Popen reaps it later
            process.wait(_REAP_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
