"""TLS over another transport: an `ssl.SSLObject` between two memory buffers.

The peer of an intercepted connection may be the caged command or any server, so neither is trusted.

Rules of this file:
- `transport.py` has the rules of readiness; the wrapped transport keeps them.
- The handshake is bounded by bytes here, and by time where it is awaited. An error ends it; nothing
  falls back to plaintext.
- Only close_notify ends a direction. A connection that ends without it was cut off (RFC 8446 6.1),
  so it is a failure of its side.
- At most FEED bytes of ciphertext (tls_feed.py), one read of plaintext, and one piece of ciphertext
  that does not fit into the socket are held.
- No record is taken in while our own answers to earlier ones can't be sent.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from nono_trio.proxy.limits import READ_HEAD
from nono_trio.proxy.transport.tls_feed import CiphertextFeed
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from nono_trio.proxy.transport.epoll import Side
    from nono_trio.proxy.transport.transport import Transport

PIECE: Final = 64 * 1024  # bytes of plaintext encrypted at once; they count when all are sent
PEEK: Final = 16 * 1024  # bytes that a look at the next ones may have to keep: one record
MAX_ANSWERS: Final = 64 * 1024  # bytes of ours that the peer has not taken while it sends more


class TlsTransport:
    """One end of TLS over `below`: the client's end if `server_name` is given, else the server's.

    `early` is ciphertext that was read from `below` before.
    """

    __slots__ = (
        "_below",
        "_ciphertext",
        "_closes_below",
        "_encrypted",
        "_failure",
        "_feed",
        "_has_ended",
        "_has_shut",
        "_incoming",
        "_is_cut",
        "_is_drained",
        "_is_open",
        "_offered",
        "_outgoing",
        "_peeked",
        "_tls",
        "side",
    )

    def __init__(
        self,
        below: Transport,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        early: bytes = b"",
    ) -> None:
        self.side: Side = below.side
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_name is None, server_hostname=server_name
        )
        self._is_open = False
        """The handshake is complete."""
        self._is_drained = True
        """OpenSSL has nothing left to read: `_has_more` found that after the last bytes came."""
        self._feed = CiphertextFeed(below, self._incoming, early)
        self._has_ended = False
        """The peer has sent close_notify."""
        self._failure: SideFailed | None = None
        """Every further read raises it."""
        self._is_cut = False
        """No close_notify is sent: the connection is reset, or it broke."""
        self._has_shut = False
        self._closes_below = False
        """`below` is shut down once the ciphertext is sent."""
        self._peeked = b""
        """Plaintext that was read and not returned yet."""
        self._ciphertext = b""
        self._encrypted = 0
        """The number of the caller's bytes in `_ciphertext`, which are not counted as sent yet."""
        self._offered = b""
        """These bytes; the caller must offer them again."""

    @property
    def readable(self) -> bool:
        """As `Transport.readable`."""
        if self._peeked or self._has_ended or self._failure is not None:
            return True
        if self._feed.batches.has_batch or (not self._is_drained and self._has_more()):
            return True
        return self._below.readable

    @property
    def ending(self) -> bool:
        """As `Transport.ending`."""
        return self._has_ended or self._below.ending

    @property
    def broken(self) -> bool:
        """As `Transport.broken`."""
        return self._below.broken

    @property
    def failed(self) -> bool:
        """As `Transport.failed`."""
        return self._below.failed

    @property
    def unsent(self) -> int:
        """Bytes of ciphertext that wait for the socket."""
        return len(self._ciphertext) + self._outgoing.pending

    @property
    def protocol(self) -> str | None:
        """The protocol that both sides have agreed to (ALPN); None for none."""
        return self._tls.selected_alpn_protocol()

    def try_handshake(self) -> bool:
        """Go on with the handshake without waiting; return True once it is complete.

        Raises ssl.SSLError for what the peer sends, SideFailed. No other method may follow then
        but `close`.
        """
        try:
            while not self._is_open:
                try:
                    self._tls.do_handshake()
                    self._is_open = True
                    self._feed.brought_plaintext()
                except ssl.SSLWantReadError:
                    self._flush()
                    if not self._take_in():
                        return False
            self._flush()
        except ssl.SSLError:
            with suppress(OSError):
                self._flush()  # the alert
            self._is_cut = True
            raise
        except SideFailed:
            self._is_cut = True
            raise
        return True

    def try_receive(self, most: int = READ_HEAD) -> bytes | None:
        """As `Transport.try_receive`."""
        if self._peeked:
            peeked, self._peeked = self._peeked[:most], self._peeked[most:]
            return peeked
        try:
            data = self._read(most)
            if data and len(data) < most and self._has_more():  # marks what is drained, too
                data = self._read_on(data, most)
            return data
        finally:
            if self._outgoing.pending or self._ciphertext:
                with suppress(SideFailed):  # sending tells; what has come can still be read
                    self._flush()

    def try_receive_into(self, space: memoryview, most: int) -> int | None:
        """As `Transport.try_receive_into`."""
        data = self.try_receive(most)
        if data is None:
            return None
        space[: len(data)] = data
        return len(data)

    def try_send(self, data: bytes | memoryview) -> int:
        """As `Transport.try_send`."""
        if not self._encrypted and 0 < len(data) <= PIECE:  # one turn of the loop below
            self._offered = b""
            self._encrypted = self._encrypt(data)
            if self._encrypted and self._flush():
                self._encrypted = 0
                return len(data)
            self._offered = bytes(data[: self._encrypted])
            return 0
        return self._send_pieces(memoryview(data))

    def send_last(self, data: bytes) -> None:
        """As `Transport.send_last`; close_notify goes with it."""
        if self._is_open and not self._encrypted:
            self._encrypt(memoryview(data))
            self._has_shut = True
            self._close_notify()
            self._send_rest()

    def is_silent(self) -> bool:
        """As `Transport.is_silent`. Tickets and new keys that were reported are taken in."""
        return self._peek() is None and self._below.is_silent()

    def has_bytes(self) -> bool:
        """As `Transport.has_bytes`."""
        return bool(self._peek())

    def shutdown(self) -> bool:
        """As `Transport.shutdown`: close_notify, then the end of `below`."""
        self._closes_below = self._closes_below or not self._has_shut
        return self.finish()

    def finish(self) -> bool:
        """As `Transport.finish`: close_notify."""
        if not self._has_shut:
            self._has_shut = True
            self._close_notify()
        return self._flush()

    def cut(self) -> None:
        """As `Transport.cut`: no close_notify follows."""
        self._is_cut = True

    def reset(self) -> None:
        """As `Transport.reset`."""
        self._is_cut = True
        self._below.reset()

    def close(self) -> None:
        """As `Transport.close`. An open connection that was not reset ends with close_notify."""
        if self._is_open and not self._is_cut:
            self._is_cut = True
            with suppress(OSError):
                if not self._has_shut:
                    self._close_notify()
                if self.unsent:
                    self._send_rest()
        self._below.close()

    def _peek(self) -> bytes | None:
        """Up to PEEK of the next bytes, b"" at the end or if the connection broke, None if none
        has arrived."""
        if not self._peeked:
            try:
                data = self.try_receive(PEEK)
            except SideFailed:
                return b""
            if not data:
                return data
            self._peeked = data
        return self._peeked

    def _has_more(self) -> bool:
        """Return whether OpenSSL has something left to read; asks it once for all that came."""
        if not self._is_drained:
            self._is_drained = not (self._incoming.pending or self._tls.pending())
        return not self._is_drained

    def _read_on(self, data: bytes, most: int) -> bytes:
        """Add to `data` what has already been received. The end, or a failure, is left to the next
        read, which is then tried without a report of the kernel's."""
        pieces, left = [data], most - len(data)
        tls, incoming = self._tls, self._incoming
        try:
            while left and (incoming.pending or tls.pending()) and not self._has_ended:
                more = tls.read(left)
                pieces.append(more)
                left -= len(more)
                self._has_ended = not more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        except ssl.SSLError as error:
            self._is_cut = True
            self._failure = SideFailed(self.side)
            self._failure.__cause__ = error
        return b"".join(pieces)

    def _read(self, most: int) -> bytes | None:
        """Return the plaintext of the next record, b"" after close_notify, None if none has
        come. Raises SideFailed."""
        if self._failure is not None:
            raise self._failure
        # A read that finds nothing costs more than a look.
        if not self._has_more() and not self._has_ended and not self._take_more():
            return None
        while not self._has_ended:
            try:
                data = self._tls.read(most)
            except ssl.SSLWantReadError:
                if not self._take_more():
                    return None
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._fail(error)
            self._is_open = True
            self._feed.brought_plaintext()
            self._has_ended = not data
            return data
        return b""

    def _take_more(self) -> bool:
        """As `_take_in`; False also while our answers wait for the peer."""
        if (self._ciphertext or self._outgoing.pending) and self._is_stopped():
            return False
        return self._take_in()

    def _is_stopped(self) -> bool:
        """Return whether our answers wait for the peer, which then gets no others."""
        if self.unsent <= MAX_ANSWERS + PIECE:
            return False
        try:
            return not self._flush()
        except SideFailed as failure:
            self._failure = failure
            raise

    def _take_in(self) -> bool:
        """Take in ciphertext; returns False if none has come. Raises SideFailed, and further reads
        raise it too."""
        try:
            has_come = self._feed.feed(is_open=self._is_open)
        except SideFailed as failure:
            self._failure = failure
            self._is_cut = True
            raise
        if has_come:
            self._is_drained = False
        return has_come

    def _fail(self, error: ssl.SSLError) -> NoReturn:
        self._is_cut = True
        self._failure = SideFailed(self.side)
        raise self._failure from error

    def _send_pieces(self, view: memoryview) -> int:
        if self._encrypted and bytes(view[: self._encrypted]) != self._offered:
            raise AssertionError("other bytes were offered before the rest was sent")
        sent = 0
        while sent < len(view):
            if not self._encrypted:
                self._encrypted = self._encrypt(view[sent : sent + PIECE])
                self._offered = b""
            if not self._encrypted or not self._flush():
                break
            sent += self._encrypted
            self._encrypted = 0
        if self._encrypted and not self._offered:
            self._offered = bytes(view[sent : sent + self._encrypted])
        return sent

    def _encrypt(self, piece: bytes | memoryview) -> int:
        """Encrypt a piece; returns its length, or 0 during the handshake. Raises SideFailed."""
        done = 0
        while done < len(piece):
            try:
                done += self._tls.write(piece[done:] if done else piece)
                self._is_open = True
            except ssl.SSLWantReadError:  # the handshake is not complete
                self._flush()
                if not self._take_in():
                    return 0
            except ssl.SSLError as error:
                self._is_cut = True
                raise SideFailed(self.side) from error
        return done

    def _flush(self) -> bool:
        """Send ciphertext; returns True if none is left. Raises SideFailed."""
        if self._outgoing.pending:
            self._ciphertext += self._outgoing.read()
        if self._ciphertext:
            self._ciphertext = self._ciphertext[self._below.try_send(self._ciphertext) :]
            if self._ciphertext:
                return False
        if self._closes_below:
            self._closes_below = False
            self._below.shutdown()
        return True

    def _send_rest(self) -> None:
        rest, self._ciphertext = self._ciphertext + self._outgoing.read(), b""
        self._below.send_last(rest)

    def _close_notify(self) -> None:
        """Encrypt close_notify. Bytes of the peer that wait here can still be read."""
        with suppress(ssl.SSLError):
            while pending := self._tls.pending():  # else OpenSSL takes them for a fault
                self._peeked += self._tls.read(pending)
        held = b"" if self._feed.is_at_end else self._incoming.read()
        with suppress(ssl.SSLError):  # the peer's close_notify has not come yet
            self._tls.unwrap()
        if held:
            self._incoming.write(held)
            self._is_drained = False
