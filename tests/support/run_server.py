"""The client of forked_runs.py: runs of the command without the start of a Python for each."""

from __future__ import annotations

import atexit
import contextlib
import marshal
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING

import forked_runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# The commands that fork, where the system has what the waiting needs.
FORKED = ("run",) if hasattr(os, "pidfd_open") else ()
READ_BYTES = 1 << 16


class ForkedRun:
    """A run that goes on, as `subprocess.Popen` of the console script with pipes and text."""

    def __init__(
        self, args: Sequence[str], reply: socket.socket, outputs: Sequence[int], stdin: int | None
    ) -> None:
        self.args = args
        self.returncode: int | None = None
        self._reply = reply
        # As of a Popen: who uses the run closes them, or `communicate` does.
        self.stdin: IO[str] | None = None if stdin is None else open(stdin, "w")  # noqa: SIM115
        self.stdout, self.stderr = (open(descriptor) for descriptor in outputs)  # noqa: SIM115
        self.pid = self._number()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._code_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises TimeoutExpired."""
        code = self._code_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask for its end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: str = "", timeout: float | None = None) -> tuple[str, str]:
        """Write a short input, read both outputs and wait for its end; raises TimeoutExpired with
        what was read."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin as stdin:
                stdin.write(input)
        read = {self.stdout: bytearray(), self.stderr: bytearray()}
        with selectors.DefaultSelector() as selector:
            for pipe, data in read.items():
                if not pipe.closed:
                    selector.register(pipe, selectors.EVENT_READ, data)
            while selector.get_map():
                ready = selector.select(_left(deadline))
                if not ready:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0, *read.values())
                for key, _ in ready:
                    data = os.read(key.fd, READ_BYTES)
                    key.data.extend(data)
                    if not data:
                        selector.unregister(key.fileobj)
        for pipe in read:
            pipe.close()
        if self._code_within(_left(deadline)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0, *read.values())
        out, err = (_text(data) for data in read.values())
        return out, err

    def _code_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and _is_readable(self._reply, seconds):
            self.returncode = self._number()
            self._reply.close()
        return self.returncode

    def _number(self) -> int:
        message = self._reply.recv(READ_BYTES)
        if not message:
            raise AssertionError("the process that forks runs has ended")
        return int(marshal.loads(message))


class RunServer:
    """One process of forked_runs.py; several threads may start runs at once."""

    def __init__(self, console_script: str, environment: Mapping[str, str]) -> None:
        self._console_script = console_script
        self._requests, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            # Pipes from the start, because Python asks once whether its outputs can be sought.
            self._process = subprocess.Popen(
                [sys.executable, forked_runs.__file__, str(other.fileno()), console_script],
                env=environment, cwd="/", pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self) -> None:
        """End it; it kills the runs that go on."""
        self._requests.close()
        self._process.communicate()

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | Path,
        stdin: int = subprocess.DEVNULL,
    ) -> ForkedRun:
        """As `subprocess.Popen` of the console script; `stdin` is DEVNULL or PIPE."""
        message = marshal.dumps(([*words], dict(environment), os.path.abspath(cwd)))
        if len(message) > forked_runs.MOST_BYTES:
            raise ValueError(f"at most {forked_runs.MOST_BYTES} bytes, got {len(message)}")
        (stdout, its_stdout), (stderr, its_stderr) = os.pipe(), os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        its_stdin, to_stdin = _stdin(stdin)
        given = [its_stdin, its_stdout, its_stderr, theirs.detach()]
        try:
            socket.send_fds(self._requests, [message], given)
        finally:
            for descriptor in given:
                os.close(descriptor)
        command = [self._console_script, *words]
        return ForkedRun(command, ours, (stdout, stderr), to_stdin)

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | Path,
        seconds: float,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` of the console script."""
        forked = self.start(words, environment, cwd)
        try:
            out, err = forked.communicate(timeout=seconds)
        except BaseException:
            forked.kill()
            forked.wait()
            forked.stdout.close()
            forked.stderr.close()
            raise
        return subprocess.CompletedProcess(forked.args, forked.wait(), out, err)


def _stdin(wanted: int) -> tuple[int, int | None]:
    """The descriptor for the run, and ours if it is a pipe."""
    if wanted == subprocess.PIPE:
        return os.pipe()
    if wanted != subprocess.DEVNULL:
        raise ValueError(f"stdin: {wanted}")
    return os.open(os.devnull, os.O_RDONLY), None


def _is_readable(reply: socket.socket, seconds: float | None) -> bool:
    """Wait for a message; False if none came. select(2) takes no descriptor over 1,023."""
    with selectors.DefaultSelector() as selector:
        selector.register(reply, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def _text(data: bytearray) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def start(console_script: str, environment: Mapping[str, str]) -> RunServer:
    """Start one that ends with this process."""
    server = RunServer(console_script, environment)
    atexit.register(server.stop)
    return server
