"""Asks a command: bytes on its stdin, its answer on stdout, both bounded, within a deadline.

Rules of this file: it blocks, so it is called in a thread. There is no shell. The command starts in
/, because programs take settings, and code, from the working directory. It is a session of
processes of its own, so Ctrl-C does not end it; if it is late, prints too much or is stopped, it is
killed with all that it has started, also in other sessions (command_family.py). What it left in the
background once it has ended stays, and is not waited for.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.posix.command_family import kill_family, with_mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_SECONDS: Final = 1.0  # a program on a dead file system never starts
_REAP_SECONDS: Final = 1.0  # a process that waits for a dead file system can't be killed
_PIECE: Final = 16 * 1024
_POLL_SECONDS: Final = 0.1  # where the system can't tell that a process has ended


class CommandFailed(Exception):
    """There is no answer; the text goes on after the name of the command: "did not ..."."""


class PrintedTooMuch(CommandFailed):
    """The answer is longer than it may be."""


class Answer(NamedTuple):
    """The exit code of a command (negative: the signal that ended it), and what it printed."""

    code: int
    output: bytes
    errors: bytes


class BoundedCommand:
    """A command that may be run again and again, by one thread at a time.

    It may print `most` bytes. Its stderr is dropped after `most_errors` bytes. `program` is the
    file that is run, if it is not the first word.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        most: int,
        most_errors: int = 0,
        program: str | None = None,
    ) -> None:
        self._words = [*words]
        self._environment = {**environment}
        self._most = most
        self._most_errors = most_errors
        self._program = program
        self._mark = ""  # of the run that goes on
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def ask(self, data: bytes, seconds: float) -> Answer:
        """Run it and return its answer; blocks for `seconds` and a moment at most.

        Raises CommandFailed if it can't be started, prints more, does not end or is stopped.
        """
        deadline = time.monotonic() + seconds
        with self._lock:
            self._require_asked()
            process = self._running = self._start(data)
        try:
            self._require_asked()  # it may have been stopped while it was started
            output, errors = self._exchange(process, data, deadline)
            _wait_for(process, deadline)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise CommandFailed(f"did not end within {seconds:.0f} s") from None
        finally:
            with self._lock:  # reaped with it, too: `stop` would kill what has its number next
                self._running = None
                if process.poll() is None:
                    kill_family(process.pid, self._mark)
            _reap(process)  # without the lock: `stop` waits for nothing
        self._require_asked()
        return Answer(process.returncode, output, errors)

    def stop(self, seconds: float = START_SECONDS) -> None:
        """End it, and run it never again; from any thread. Blocks for `seconds` at most."""
        self._is_stopped = True
        if not self._lock.acquire(timeout=seconds):
            return  # it is being started, and killed then
        try:
            if self._running is not None:
                kill_family(self._running.pid, self._mark)
        finally:
            self._lock.release()

    def _require_asked(self) -> None:
        if self._is_stopped:
            raise CommandFailed("was not asked to its end: the session has ended")

    def _start(self, data: bytes) -> subprocess.Popen[bytes]:
        environment, self._mark = with_mark(self._environment)
        try:
            return subprocess.Popen(  # vfork and exec: nothing of ours runs in the child
                self._words,
                executable=self._program,
                env=environment,
                cwd="/",
                stdin=subprocess.PIPE if data else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if self._most_errors else subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            reason = (error.strerror or "it failed").lower()
            raise CommandFailed(f"can't be started: {reason}") from None

    def _exchange(
        self, process: subprocess.Popen[bytes], data: bytes, deadline: float
    ) -> tuple[bytes, bytes]:
        """Write `data` and read, until the process has ended or its pipes are closed.

        Raises TimeoutError and CommandFailed.
        """
        said = [one for one in (process.stdout, process.stderr) if one is not None]
        kept = {one.fileno(): bytearray() for one in said}
        output = kept[said[0].fileno()]
        waiting = select.poll()
        for pipe in kept:
            os.set_blocking(pipe, False)
            waiting.register(pipe, select.POLLIN)
        sending = _Sending(process, data, waiting)
        with _ending(process.pid) as ended:
            if ended is not None:
                waiting.register(ended, select.POLLIN)
            opened, has_ended = set(kept), False
            while (opened or sending.goes_on) and not has_ended:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                found = waiting.poll(min(left, _POLL_SECONDS if ended is None else left) * 1000)
                ready = {one for one, _ in found}
                has_ended = process.poll() is not None if ended is None else ended in ready
                # what it left in the background may hold the pipes for ever
                for pipe in [*opened] if has_ended else opened & ready:
                    if _take(pipe, kept[pipe], self._most):
                        waiting.unregister(pipe)
                        opened.remove(pipe)
                if len(output) > self._most:
                    raise PrintedTooMuch(f"printed more than {self._most} bytes")
                for errors in (one for one in kept.values() if one is not output):
                    del errors[self._most_errors :]
                sending.go_on(ready)
        return bytes(output), b"".join(bytes(one) for one in kept.values() if one is not output)


class _Sending:
    """The rest of the input of a process; one that does not read it decides by its answer."""

    def __init__(self, process: subprocess.Popen[bytes], data: bytes, waiting: select.poll) -> None:
        self._pipe = process.stdin
        self._rest = memoryview(data)
        self._waiting = waiting
        if self._pipe is not None:
            os.set_blocking(self._pipe.fileno(), False)
            waiting.register(self._pipe.fileno(), select.POLLOUT)

    @property
    def goes_on(self) -> bool:
        """Return True if the process may still read some of it."""
        return self._pipe is not None and not self._pipe.closed

    def go_on(self, ready: set[int]) -> None:
        """Write what the pipe takes, if it is among those that are ready."""
        if self._pipe is None or self._pipe.closed or self._pipe.fileno() not in ready:
            return
        try:
            self._rest = self._rest[os.write(self._pipe.fileno(), self._rest) :]
        except OSError:
            self._rest = self._rest[:0]
        if not self._rest:
            self._waiting.unregister(self._pipe.fileno())
            self._pipe.close()


@contextmanager
def _ending(pid: int) -> Iterator[int | None]:
    """Open what is readable once a process has ended; None where the system has no such thing."""
    descriptor: int | None = None
    if sys.platform == "linux":
        with suppress(OSError):
            descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for the end of a process that is not reaped. Raises TimeoutError, TimeoutExpired."""
    left = max(deadline - time.monotonic(), 0)
    with _ending(process.pid) as ended:
        if ended is None:
            process.wait(left)
            return
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        if not waiting.poll(left * 1000):
            raise TimeoutError


def _take(pipe: int, data: bytearray, most: int) -> bool:
    """Add what a pipe holds now, up to a piece more than `most`; return True at its end."""
    while len(data) <= most:
        try:
            piece = os.read(pipe, _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            return True
        data += piece
    return False


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Reap what was killed, and close its pipes."""
    with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; Popen reaps it later
        process.wait(_REAP_SECONDS)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
