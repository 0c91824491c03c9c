"""A minimal `Transport` for TLS over another one, as transport.py describes it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from nono_trio.proxy.limits import READ_HEAD
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    from nono_trio.proxy.transport.transport import Transport

RECORD = 16 * 1024  # bytes of plaintext in one record


class TlsTransport:
    """The server's or the client's end of TLS over `below`."""

    def __init__(
        self, below: Transport, context: ssl.SSLContext, *, server_name: str | None = None
    ) -> None:
        self.side = below.side
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_name is None, server_hostname=server_name
        )
        self._ciphertext = b""
        self._encrypted = 0  # the caller's bytes in the record that is not sent yet

    @property
    def readable(self) -> bool:
        waits_for_us = self._tls.pending() or self._incoming.pending or self._ciphertext
        return bool(waits_for_us) or self._below.readable

    @property
    def ending(self) -> bool:
        return self._below.ending

    @property
    def broken(self) -> bool:
        return self._below.broken

    @property
    def failed(self) -> bool:
        return self._below.failed

    def try_receive(self, most: int = READ_HEAD) -> bytes | None:
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                if not self._feed():
                    return None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise SideFailed(self.side) from error
            finally:
                self._flush()

    def try_receive_into(self, space: memoryview, most: int) -> int | None:
        data = self.try_receive(most)
        if data is None:
            return None
        space[: len(data)] = data
        return len(data)

    def try_send(self, data: bytes | memoryview) -> int:
        sent = 0
        while sent < len(data):
            if not self._encrypted:
                self._encrypted = self._encrypt(bytes(data[sent : sent + RECORD]))
            if not self._flush() or not self._encrypted:
                break
            sent += self._encrypted
            self._encrypted = 0
        return sent

    def _encrypt(self, piece: bytes) -> int:
        while True:
            try:
                return self._tls.write(piece)
            except ssl.SSLWantReadError:  # the handshake goes on
                self._flush()
                if not self._feed():
                    return 0
            except ssl.SSLError as error:
                raise SideFailed(self.side) from error

    def send_last(self, data: bytes) -> None:
        self.try_send(data)

    def is_silent(self) -> bool:
        return not self._tls.pending() and not self._incoming.pending and self._below.is_silent()

    def has_bytes(self) -> bool:
        return bool(self._tls.pending() or self._incoming.pending) or self._below.has_bytes()

    def shutdown(self) -> None:
        with suppress(ssl.SSLError):  # the peer's close_notify has not come yet
            self._tls.unwrap()
        self._flush()
        self._below.shutdown()

    def reset(self) -> None:
        self._below.reset()

    def close(self) -> None:
        self._below.close()

    def _feed(self) -> bool:
        data = self._below.try_receive()
        if data is None:
            return False
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return True

    def _flush(self) -> bool:
        self._ciphertext += self._outgoing.read()
        if self._ciphertext:
            self._ciphertext = self._ciphertext[self._below.try_send(self._ciphertext) :]
        return not self._ciphertext
