"""Runs the command line of a cmd:// source once, outside of any cage.

Rules of this file:
- There is no shell. The words are those of the user. The program is found once, at the start.
- It starts in /, because programs take settings, and code, from the working directory, which the
  caged command may write. It gets no terminal and no input.
- It is a session of processes of its own. At the deadline, or when too much was printed, it is
  killed with all that it has started, also in other sessions (posix/command_family.py).
- What it prints on stderr is for its user, at the start of a session: it may have a secret, as a
  shell's trace has, so it is apart from the reason of an error. It is cut, loses its control
  characters, and is left out if it has what was printed on stdout.
- No error has the command line, which may have a password in it.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.shape import MAX_SECRET, MIN_SECRET
from nono_trio.posix.command_family import kill_family, with_mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SECONDS: Final = 10.0  # for a tool that asks a server; one that waits for a person never ends
MAX_STDERR: Final = 2048  # bytes that are kept of it
MAX_SHOWN: Final = 200  # characters of it in an error
_PIECE: Final = 16 * 1024
_LINE_END: Final = 2  # bytes after the secret
_REAP_SECONDS: Final = 1.0  # a process that waits for a dead file system can't be killed
START_SECONDS: Final = 1.0  # a program on a dead file system never starts
_POLL_SECONDS: Final = 0.1  # where the system can't tell that a process has ended


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
        self._program = program
        self._words = list(words)
        self._environment = dict(environment)
        self._mark = ""  # of the run that goes on
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def __repr__(self) -> str:
        return "CommandLine(...)"

    def output(self) -> bytes:
        """Run it; return what it printed. Blocks for SECONDS and a moment at most. Raises
        CommandFailed."""
        deadline = time.monotonic() + SECONDS
        with self._lock:
            if self._is_stopped:
                raise CommandFailed("the session has ended")
            process = self._running = self._start()
        try:
            if self._is_stopped:  # while it was started
                raise CommandFailed("the session has ended")
            output, errors = _read(process, deadline)
            code = process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"it did not end within {SECONDS:.0f} s") from None
        finally:
            with self._lock:
                self._running = None
                if process.returncode is None:
                    kill_family(process.pid, self._mark)
            _reap(process)  # without the lock: `stop` waits for nothing
        if self._is_stopped:
            raise CommandFailed("the session has ended")
        if code != 0:
            raise CommandFailed(_ended(code), _shown(errors, output))
        return output

    def stop(self) -> None:
        """End it, and run it never again; from any thread. Blocks for START_SECONDS at most."""
        self._is_stopped = True
        if not self._lock.acquire(timeout=START_SECONDS):
            return  # it is being started, and killed then
        try:
            if self._running is not None:
                kill_family(self._running.pid, self._mark)
        finally:
            self._lock.release()

    def _start(self) -> subprocess.Popen[bytes]:
        environment, self._mark = with_mark(self._environment)
        try:
            return subprocess.Popen(  # vfork and exec: nothing of ours runs in the child
                self._words,
                executable=self._program,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            reason = (error.strerror or "it failed").lower()
            raise CommandFailed(f"it can't be started: {reason}") from None


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Read until the process has ended, or both pipes have. Raises CommandFailed."""
    assert process.stdout is not None
    assert process.stderr is not None
    pipes = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    output, errors = pipes.values()
    waiting = select.poll()
    for pipe in pipes:
        os.set_blocking(pipe, False)
        waiting.register(pipe, select.POLLIN)
    with _ending(process.pid) as ended:
        if ended is not None:
            waiting.register(ended, select.POLLIN)
        opened = set(pipes)
        while opened:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandFailed(f"it did not end within {SECONDS:.0f} s")
            ready = waiting.poll(min(left, _POLL_SECONDS if ended is None else left) * 1000)
            has_ended = any(one == ended for one, _ in ready) or (
                ended is None and process.poll() is not None
            )
            for pipe in [*opened] if has_ended else [one for one, _ in ready if one in opened]:
                if _take(pipe, pipes[pipe]):
                    waiting.unregister(pipe)
                    opened.remove(pipe)
            if len(output) > MAX_SECRET + _LINE_END:
                raise CommandFailed(f"it printed more than {MAX_SECRET} bytes")
            del errors[MAX_STDERR:]
            if has_ended:  # what it left in the background may hold the pipes for ever
                break
    return bytes(output), bytes(errors)


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


def _take(pipe: int, data: bytearray) -> bool:
    """Add what a pipe holds now; return True at its end."""
    while len(data) <= MAX_SECRET + _LINE_END:
        try:
            piece = os.read(pipe, _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            return True
        data += piece
    return False


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Reap what was killed, and close its pipes. What a successful command left behind stays: an
    agent."""
    with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; Popen reaps it later
        process.wait(_REAP_SECONDS)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


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
