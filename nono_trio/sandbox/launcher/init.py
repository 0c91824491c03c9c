"""PID 1 of the cage: reaps orphans, forwards signals, reports the child's end.

It stays outside the child's Landlock domain, so the cage can't trace or signal it. It holds only
its end of the control socket. When it ends, the kernel kills every process of the namespace; so it
ends as soon as the child has ended or the supervisor's end of the socket closes. If the supervisor
stops together with the child (Ctrl-Z), a stopped child stops the whole cage: no process of it runs
unsupervised.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

from . import protocol

if TYPE_CHECKING:
    from .process_tree import Freezer

# One byte a signal is enough: a full pipe means that a wake-up is already due.
_WAKE_BYTES = 4096
# Signals that end a program. A stopped program must be continued to receive them; any other signal
# waits for `fg`.
_ENDING = frozenset(
    (
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT,
        signal.SIGKILL,
    )
)  # fmt: skip


class Init:
    """The loop of PID 1; `run` returns when the cage must end."""

    def __init__(
        self,
        control: socket.socket,
        child: int,
        terminal: int | None,
        freezer: Freezer | None = None,
    ) -> None:
        self._control = control
        self._child = child
        self._terminal = terminal
        self._freezer = freezer
        self._decoder = protocol.Decoder()
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(
            signal.SIGCHLD, lambda *_: None
        )  # only a handler makes Python write the wake-up

    def run(self) -> None:
        """Serve until the child has ended or the supervisor has closed its end."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while self._reap():
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake in ready:
                os.read(self._wake, _WAKE_BYTES)
            if self._control.fileno() in ready and not self._obey():
                return

    def _reap(self) -> bool:
        """Reap every ended process; return False once the child itself has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child and not self._report(status):
                return False

    def _report(self, status: int) -> bool:
        if os.WIFCONTINUED(status):
            self._thaw()
            return True
        stopped = os.WIFSTOPPED(status)
        if stopped and self._freezer is not None:
            self._freezer.stop()
        with contextlib.suppress(OSError):  # the supervisor has ended: the loop notices it next
            protocol.send(self._control, _word(status))
        return stopped

    def _obey(self) -> bool:
        """Obey the supervisor's messages; return False at the end of the stream."""
        if not protocol.read_once(self._control, self._decoder):
            return False
        while (found := self._decoder.next()) is not None:
            message, _ = found
            if message.get("foreground") and self._terminal is not None:
                give_terminal(self._terminal, self._child)
            number = message.get("signal")
            if isinstance(number, int):
                self._signal(number)
            port = message.get("connect")
            if isinstance(port, int):
                self._connect(str(message["address"]), port, message["id"])
        return True

    def _connect(self, address: str, port: int, identity: object) -> None:
        """Begin a connection to the child's own loopback; the supervisor waits for its outcome."""
        sock, number = _begin(address, port)  # the errno of an early refusal is reported only here
        with sock:
            message = {"connecting": identity, "errno": number}
            protocol.send(self._control, message, [sock.fileno()])

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child, number)
        # A signal stays pending in a stopped group until SIGCONT.
        if number in _ENDING:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child, signal.SIGCONT)
        if number in _ENDING or number == signal.SIGCONT:
            self._thaw()

    def _thaw(self) -> None:
        if self._freezer is not None:
            self._freezer.go_on()


def _begin(address: str, port: int) -> tuple[socket.socket, int]:
    """Begin a connection; return it with the errno of its beginning."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # no IPv6 here; the answer needs some socket
        return socket.socket(), error.errno or errno.EAFNOSUPPORT
    sock.setblocking(False)
    return sock, sock.connect_ex((address, port))


def _word(status: int) -> dict[str, object]:
    if os.WIFSTOPPED(status):
        return {"stopped": os.WSTOPSIG(status)}
    if os.WIFSIGNALED(status):
        return {"killed": os.WTERMSIG(status)}
    return {"exited": os.WEXITSTATUS(status)}


def give_terminal(terminal: int, group: int) -> None:
    """Make `group` the foreground process group of the terminal open at `terminal`."""
    with contextlib.suppress(OSError):  # the terminal may have hung up
        os.tcsetpgrp(terminal, group)
