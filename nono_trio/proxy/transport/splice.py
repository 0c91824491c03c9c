"""Bytes from one TCP socket to another inside the kernel: splice(2), through a pipe from a pool.

The rules of this file:
- The bytes in a pipe were taken from the source and are not sent yet: they are held, and do not
  count as moved.
- A direction has a pipe for one step, or for as long as its sink is full. An idle tunnel uses no
  pipe.
- Only an empty pipe goes back to the pool. Any other one is closed.
- splice(2) does not tell the end of a source: before urgent data, which a read leaves out, it stops
  as if nothing more had come, or as if the source had ended. So where it moves nothing, a read is
  tried, and the read's answer counts.
- Where it can't be done, bytes are read and sent instead (relay.py): no splice on this system, or
  forbidden by a filter of system calls; no further pipe; a kind of socket that it does not take.

A pipe of 1 MiB counts against what Linux gives all pipes of an ordinary user (64 MiB). Beyond that
the user's other programs get pipes of one page. So a process takes MAX_PIPES at most, and keeps few
that are not in use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.proxy.limits import MAX_PIPES, PIPE_BYTES, most_pipes
from nono_trio.proxy.transport.transport import SideFailed, TcpTransport

if TYPE_CHECKING:
    from nono_trio.proxy.transport.transport import Transport

HAS_SPLICE: Final = sys.platform == "linux" and hasattr(os, "splice")
# Calls of `take` that do not try to open a pipe after one could not be opened: a try costs 7 us.
PAUSE_AFTER_REFUSAL: Final = 64
# The sockets are not of a kind that it takes, or a filter of system calls forbids it.
_CANNOT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
_places: Final = threading.BoundedSemaphore(MAX_PIPES)  # of this process; a pipe has one


class Pipe(msgspec.Struct, frozen=True):
    """A pipe that does not block: its two descriptors."""

    read_end: int
    write_end: int


class PipePool:
    """The pipes of one proxy. Closes them with the last `Splice` that may need one."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._in_use = 0
        self._members = 0
        self._left_out = 0

    @property
    def open_pipes(self) -> int:
        """How many pipes are open, in use or not."""
        return self._in_use + len(self._free)

    def join(self) -> None:
        """Count a `Splice` in, which must `leave`."""
        self._members += 1

    def leave(self) -> None:
        """Count one out, which has no pipe."""
        self._members -= 1
        while not self._members and self._free:
            _close(self._free.pop())

    def take(self) -> Pipe | None:
        """Return an empty pipe; None if no further one can be opened."""
        if self._free:
            pipe: Pipe | None = self._free.pop()
        elif self._left_out:
            self._left_out -= 1
            return None
        elif (pipe := _open(self.open_pipes)) is None:
            self._left_out = PAUSE_AFTER_REFUSAL
            return None
        self._in_use += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back a pipe, which must be empty. Keeps one more than are in use, at most."""
        self._in_use -= 1
        self._free.append(pipe)
        while len(self._free) > self._in_use + 1:
            _close(self._free.pop())

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe that is not known to be empty."""
        self._in_use -= 1
        _close(pipe)


class Splice:
    """One direction's way through the kernel. `held`: bytes that its pipe has, taken from the
    source and not sent. `works`: False once it has turned out that the sockets can't be spliced.

    `release` must be called at the end. No method waits.
    """

    __slots__ = ("_pipe", "_pool", "_sink", "_source", "held", "works")

    def __init__(self, source: TcpTransport, sink: TcpTransport, pool: PipePool) -> None:
        self._source = source
        self._sink = sink
        self._pool = pool
        self._pipe: Pipe | None = None
        self.held = 0
        self.works = True
        pool.join()

    def try_receive(self, most: int) -> int:
        """Take up to `most` bytes from the source, once all before are sent. Returns how many.

        0 says nothing about the source: a read must be tried. Raises SideFailed.
        """
        self._pipe = pipe = self._pool.take()
        if pipe is None:
            return 0
        count = _moved(self._source, self._source.sock.fileno(), pipe.write_end, most)
        if count is None:
            self.works = False
        elif count:
            self.held = count
            return count
        self._put_back(pipe)
        return 0

    def try_send(self) -> int:
        """Send what fits of the bytes that are held; return how many. Raises SideFailed.

        0: the connection is woken when the sink takes more, unless `works` has become False.
        """
        pipe = self._pipe
        if pipe is None:
            return 0
        sent = _moved(self._sink, pipe.read_end, self._sink.sock.fileno(), self.held)
        if sent is None:
            self.works = False
            return 0
        if not sent:
            self._sink.want_write()
            return 0
        self.held -= sent
        if not self.held:
            self._put_back(pipe)
        return sent

    def take_back(self) -> bytes:
        """Return the bytes that are held, to be sent another way."""
        pieces = []
        while self._pipe is not None:
            pieces.append(piece := os.read(self._pipe.read_end, self.held))
            self.held -= len(piece)
            if not self.held:
                self._put_back(self._pipe)
        return b"".join(pieces)

    def release(self) -> None:
        """Drop what is held. Must be called once, at the end."""
        self.held = 0
        if self._pipe is not None:
            self._pool.discard(self._pipe)
            self._pipe = None
        self._pool.leave()

    def _put_back(self, pipe: Pipe) -> None:
        self._pipe = None
        self._pool.give(pipe)


def splice_between(source: Transport, sink: Transport, pool: PipePool) -> Splice | None:
    """Return the way through the kernel from one to the other, or None without one."""
    if HAS_SPLICE and isinstance(source, TcpTransport) and isinstance(sink, TcpTransport):
        return Splice(source, sink, pool)
    return None


def _moved(side: TcpTransport, source: int, sink: int, most: int) -> int | None:
    """Splice without waiting; return how many bytes moved, or None if these can't be spliced.
    Raises SideFailed with `side`, the one of both ends that is no pipe."""
    if sys.platform == "linux":
        try:
            return os.splice(source, sink, most, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _CANNOT:
                return None
            raise SideFailed(side.side, error.errno) from error
    else:
        return None


def _open(open_pipes: int) -> Pipe | None:
    """Open a pipe for a pool that has so many; None if it can't or must not."""
    if open_pipes >= most_pipes(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        return None
    if not _places.acquire(blocking=False):
        return None
    try:
        return _large_pipe()
    except OSError:
        _places.release()
        return None


def _large_pipe() -> Pipe:
    """Open a pipe of PIPE_BYTES. Raises OSError without a descriptor for it, if the user has too
    many pipes, and if no pipe may be as large."""
    if sys.platform == "linux":
        pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            _close_ends(pipe)
            raise
        return pipe
    else:  # noqa: RET505 - mypy finds code after the `if` unreachable elsewhere
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _close(pipe: Pipe) -> None:
    _close_ends(pipe)
    _places.release()


def _close_ends(pipe: Pipe) -> None:
    os.close(pipe.read_end)
    os.close(pipe.write_end)
