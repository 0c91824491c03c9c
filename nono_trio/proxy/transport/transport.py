"""One end of a connection: `Transport`, the interface of all that moves bytes, and plain TCP's.

This file has all rules of readiness; `epoll.py` only notes what the kernel reports. A caller tries
first, and waits when no byte moves:

    while (data := client.transport.try_receive()) is None:
        await client.pause()

The rules:
- A read is tried only if it may succeed (`readable`). A read that blocks, or that returns less than
  was asked for, has emptied the socket, and the kernel reports the next bytes (epoll(7), edge
  triggered). The kernel reports the peer's end together with the last bytes: once `ending` is set,
  only a read that returns b"" is the last.
- The kernel reports nothing about a socket that is not registered, so that socket stays readable.
- A write is always tried. If not all bytes fit, the socket is registered for writing, and the
  kernel reports when it takes bytes again.

TLS is a second implementation (`tls.py`). A `TlsTransport` wraps the `Transport` of a `Client` or
of an `Upstream` and replaces it, so streams, exchange and tunnel move plaintext and do not change.
Its methods:
- `try_receive` feeds the bytes of the wrapped transport to OpenSSL and returns the plaintext. It
  returns None only after the wrapped transport has returned None and no plaintext is left, so the
  wake-up for the next bytes will come.
- `try_send` encrypts a piece and counts it once its last byte is sent. The caller must offer the
  other bytes again, which every caller does, so no ciphertext is left behind.
- Any method sends what the protocol itself has to send (handshake, key update, alert). During the
  handshake `try_receive` returns None and `try_send` 0.
- `shutdown` sends close_notify, then calls the wrapped `shutdown`. `broken` and `failed` are those
  of the wrapped transport. `readable` and `is_silent` also count bytes that were received and not
  returned.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.proxy.limits import READ_HEAD
from nono_trio.proxy.transport.epoll import Watch

if TYPE_CHECKING:
    from nono_trio.proxy.transport.epoll import Readiness, Side
    from nono_trio.waker import Waker

_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: on, wait 0 seconds

# `socket.close` also counts the files made of a socket (we make none), and costs twice this.
_close: Final = socket.SocketType.close

# Without MSG_MORE the last bytes leave in a packet of their own, before the one of the close.
if sys.platform == "linux":
    _MORE: Final = socket.MSG_MORE
else:
    _MORE: Final = 0


class SideFailed(OSError):
    """One side's connection broke: reset, timed out, unreachable. `errno` is None if unknown."""

    def __init__(self, side: Side, number: int | None = None) -> None:
        super().__init__(number, f"the connection to the {side} broke")
        self.side: Side = side


class Transport(Protocol):
    """Moves bytes to and from one peer. No method waits. Methods raise SideFailed unless they say
    otherwise."""

    side: Side

    @property
    def readable(self) -> bool:
        """True if a read may return bytes or the end. If False, a read can be left out."""
        ...

    @property
    def ending(self) -> bool:
        """True once the peer has ended its direction; there may still be bytes to read."""
        ...

    @property
    def broken(self) -> bool:
        """True once no byte can go either way."""
        ...

    @property
    def failed(self) -> bool:
        """True once the connection has ended by an error, such as a reset."""
        ...

    def try_receive(self, most: int = READ_HEAD) -> bytes | None:
        """Return up to `most` bytes that have arrived, b"" at the end, None if no byte has."""
        ...

    def try_receive_into(self, space: memoryview, most: int) -> int | None:
        """As `try_receive`, into `space`; return the number of bytes, 0 at the end."""
        ...

    def try_send(self, data: bytes | memoryview) -> int:
        """Send what fits of `data` and return how many bytes that was.

        If not all of it fits, the connection is woken when more can be sent. The rest must be
        offered again before anything else is.
        """
        ...

    def send_last(self, data: bytes) -> None:
        """Send what fits of the last bytes before `close`."""
        ...

    def is_silent(self) -> bool:
        """Return whether the connection is open and has nothing to read. Raises nothing."""
        ...

    def has_bytes(self) -> bool:
        """Return whether the peer has sent bytes that were not read yet. Raises nothing."""
        ...

    def shutdown(self) -> bool:
        """End our direction; the peer's stays open. Return whether the end has gone out; until
        then, call it again each time that the connection is woken."""
        ...

    def finish(self) -> bool:
        """Have our end ready to go out with `close`. Return whether nothing of it must wait; until
        then, call it again each time that the connection is woken."""
        ...

    def cut(self) -> None:
        """Have `close` not say that what was sent is complete, if the protocol can say so. Raises
        nothing."""
        ...

    def reset(self) -> None:
        """Make `close` a reset, so that the peer does not take what it has received as complete."""
        ...

    def close(self) -> None:
        """Close the connection. Bytes that were sent still arrive if the peer sends nothing more.
        Raises nothing."""
        ...


class TcpTransport(Watch):
    """A connected, non-blocking stream socket, which it owns."""

    __slots__ = ("_descriptor", "_readiness", "_wants_write", "is_registered", "sock")

    def __init__(
        self, sock: socket.SocketType, side: Side, waker: Waker, readiness: Readiness
    ) -> None:
        self.sock = sock
        self.side = side
        self.waker = waker
        self.readable = True
        self.ending = False
        self.broken = False
        self.failed = False
        self._readiness = readiness
        self._descriptor = -1
        self.is_registered = False
        self._wants_write = False

    def register(self) -> None:
        """Have the connection woken from now on. Raises OSError when the system has no room."""
        if not self.is_registered:
            self._descriptor = self.sock.fileno()
            self._readiness.register(self._descriptor, self)
            self.is_registered = True
            self.readable = False  # bytes that have already arrived are reported

    def try_receive(self, most: int = READ_HEAD) -> bytes | None:
        """As `Transport.try_receive`."""
        if not self.readable:
            return None
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            self.readable = not self.is_registered
            return None
        except OSError as error:
            raise SideFailed(self.side, error.errno) from error
        if len(data) < most and not self.ending:
            self.readable = not self.is_registered
        return data

    def try_receive_into(self, space: memoryview, most: int) -> int | None:
        """As `Transport.try_receive_into`."""
        if not self.readable:
            return None
        try:
            count = self.sock.recv_into(space, most)
        except BlockingIOError:
            self.readable = not self.is_registered
            return None
        except OSError as error:
            raise SideFailed(self.side, error.errno) from error
        if count < most and not self.ending:
            self.readable = not self.is_registered
        return count

    def try_send(self, data: bytes | memoryview) -> int:
        """As `Transport.try_send`."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise SideFailed(self.side, error.errno) from error
        if sent < len(data):
            self.want_write()
        return sent

    def want_write(self) -> None:
        """Also have the connection woken when the socket takes bytes again. Raises OSError."""
        if self._wants_write:
            return
        self.register()
        self._readiness.add_write(self._descriptor)
        self._wants_write = True

    def send_last(self, data: bytes) -> None:
        """As `Transport.send_last`. On Linux the bytes leave in the packet that ends the
        connection, so that the peer wakes up once."""
        try:
            self.sock.send(data, _MORE)
        except BlockingIOError:
            pass
        except OSError as error:
            raise SideFailed(self.side, error.errno) from error

    def is_silent(self) -> bool:
        """As `Transport.is_silent`."""
        return self._peek() is None

    def has_bytes(self) -> bool:
        """As `Transport.has_bytes`."""
        return bool(self._peek())

    def _peek(self) -> bytes | None:
        """The next byte, b"" at the end or if the connection broke, None if no byte has arrived."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def shutdown(self) -> bool:
        """As `Transport.shutdown`; the end always goes out."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise SideFailed(self.side, error.errno) from error
        return True

    def finish(self) -> bool:
        """As `Transport.finish`: the close itself is the end."""
        return True

    def cut(self) -> None:
        """As `Transport.cut`: only a reset could say so, and it destroys bytes on their way."""

    def reset(self) -> None:
        """As `Transport.reset`."""
        try:
            reset(self.sock)
        except OSError as error:
            raise SideFailed(self.side, error.errno) from error

    def close(self) -> None:
        """As `Transport.close`."""
        if self.is_registered:  # first: the kernel may give the number to another socket
            self._readiness.forget(self._descriptor)
            self.is_registered = False
        _close(self.sock)


def reset(sock: socket.SocketType) -> None:
    """Make the socket's `close` a reset. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
