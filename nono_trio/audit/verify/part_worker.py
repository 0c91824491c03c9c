"""The messages between the joiner of a log and the processes that check parts of it.

Rules of this file: a worker imports the chain and nothing of the command. It gets the open log, so
a file that is replaced meanwhile can't be mixed in; each message has its length before it. A worker
says when it is ready, with a message without content: until then it gets no part, and nothing waits
for it. It ends when the joiner has gone. A worker that can't be started is done without; one that
is lost is an error, and never a verdict.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from nono_trio.audit.verify.parts import GoodPart, Part, check_part
from nono_trio.audit.verify.worker_process import take_worker
from nono_trio.errors import NonoTrioError
from nono_trio.startup import collect_rarely

if TYPE_CHECKING:
    from types import TracebackType

AHEAD: Final = 2  # parts that a worker has at a time, so that it never waits for the next
# A part takes milliseconds; a disk that is asleep or a machine that is full takes longer.
ANSWER_SECONDS: Final = 60.0

_LENGTH: Final = struct.Struct("!I")
_LOG: Final = b"L"  # the first message: the descriptor of the log comes with it
_encoder = msgspec.msgpack.Encoder()
_part_decoder = msgspec.msgpack.Decoder(Part)
_answer_decoder: msgspec.msgpack.Decoder[GoodPart | None] = msgspec.msgpack.Decoder(GoodPart | None)


class WorkerLost(NonoTrioError):
    """A process that checked a part of a log was killed, or did not answer."""

    exit_code = 2


class Worker:
    """One process; `answers` has the checked parts, in the order in which they were sent.

    `is_ready`: it has started, and may get parts.
    """

    def __init__(self, log: int) -> None:
        self._process = take_worker()
        self.pid, self.socket = self._process.pid, self._process.socket
        try:
            socket.send_fds(self.socket, [_LOG], [log])
        except OSError:
            self._process.end()
            raise
        self.is_ready = False
        self.answers: deque[GoodPart | None] = deque()
        self.outstanding = 0
        self._received = bytearray()

    def send(self, part: Part) -> None:
        """Send a part to check; raises WorkerLost."""
        message = _encoder.encode(part)
        try:
            self.socket.sendall(_LENGTH.pack(len(message)) + message)
        except OSError:
            raise _lost() from None
        self.outstanding += 1

    def receive(self) -> None:
        """Take what has arrived; blocks if nothing has. Raises WorkerLost."""
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            raise _lost()
        received = self._received
        received += data
        while len(received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            if end == _LENGTH.size:
                self.is_ready = True
            else:
                self.answers.append(_answer_decoder.decode(received[_LENGTH.size : end]))
                self.outstanding -= 1
            del received[:end]

    def end(self) -> None:
        """Kill and reap the process."""
        self._process.end()


class Workers:
    """Up to `count` processes, as a context manager; all are gone at its end."""

    def __init__(self, count: int, log: int) -> None:
        self.all: list[Worker] = []
        self._count = count
        self._log = log
        self._poll = select.poll()

    def __enter__(self) -> Workers:
        with suppress(OSError):  # no room for another process
            while len(self.all) < self._count:
                worker = Worker(self._log)
                self.all.append(worker)
                self._poll.register(worker.socket, select.POLLIN)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for worker in self.all:
            worker.end()

    def receive(self, *, wait: bool) -> None:
        """Take the answers that have arrived; with `wait`, at least some bytes of one.

        Raises WorkerLost, also after twice ANSWER_SECONDS without any: the time runs on while
        Ctrl-Z stops all processes, so the first wait may end before a worker can go on.
        """
        milliseconds = ANSWER_SECONDS * 1000 * wait
        events = self._poll.poll(milliseconds) or self._poll.poll(milliseconds)
        ready = {descriptor for descriptor, _ in events}
        if wait and not ready:
            raise _lost()
        for worker in self.all:
            if worker.socket.fileno() in ready:
                worker.receive()


def _lost() -> WorkerLost:
    return WorkerLost(
        "a process that verified a part of the log was killed, or gave no answer",
        hint="verify with --jobs 1",
    )


def work(descriptor: int) -> NoReturn:
    """Be a worker: answer each part until the joiner has gone."""
    collect_rarely()  # records make no circles
    with socket.socket(fileno=descriptor) as joiner, suppress(OSError):
        joiner.sendall(_LENGTH.pack(0))
        _, descriptors, _, _ = socket.recv_fds(joiner, len(_LOG), 1)
        if not descriptors:  # the joiner has gone
            os._exit(0)
        log = descriptors[0]
        while (head := _exactly(joiner, _LENGTH.size)) is not None:
            message = _exactly(joiner, _LENGTH.unpack(head)[0])
            if message is None:
                break
            part = _part_decoder.decode(message)
            answer = _encoder.encode(check_part(read_part(log, part), part))
            joiner.sendall(_LENGTH.pack(len(answer)) + answer)
    os._exit(0)


def read_part(log: int, part: Part) -> bytes:
    """Return the bytes of a part, fewer if the log has become shorter; raises OSError."""
    return os.pread(log, part.end - part.begin, part.begin)


def _exactly(joiner: socket.socket, size: int) -> bytes | None:
    data = joiner.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else None
