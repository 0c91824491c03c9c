"""Gives OpenSSL the ciphertext that was received, in batches of a few records (tls_records.py).

Rules of this file: records in a row that bring no plaintext are bounded. The peer may send them
without end, and each costs us time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.proxy.transport.tls_records import RecordBatches
from nono_trio.proxy.transport.transport import SideFailed

if TYPE_CHECKING:
    import ssl

    from nono_trio.proxy.transport.transport import Transport

FEED: Final = 96 * 1024  # bytes of ciphertext taken in at once: six full records
# Bytes and records in a row that may bring no plaintext. OpenSSL takes certificates of 100 KiB in a
# handshake, in records of 512 bytes or more. After it a server sends some tickets, and either side
# may ask for new keys.
MAX_BARE: Final = 192 * 1024
MAX_HANDSHAKE_RECORDS: Final = 512
MAX_BARE_RECORDS: Final = 64


class CiphertextFeed:
    """Reads ciphertext from `below` and writes it to `incoming`, which OpenSSL reads. `early` was
    read from `below` before. `is_at_end`: `below` has ended, and OpenSSL knows it."""

    __slots__ = ("_bare", "_below", "_incoming", "batches", "is_at_end")

    def __init__(self, below: Transport, incoming: ssl.MemoryBIO, early: bytes) -> None:
        self.batches = RecordBatches(early)
        self.is_at_end = False
        self._below = below
        self._incoming = incoming
        self._bare = 0

    def feed(self, *, is_open: bool) -> bool:
        """Write the next batch, or the end; returns False if nothing has come. `is_open`: the
        handshake is complete. Raises SideFailed."""
        if self.is_at_end:
            return True
        batches = self.batches
        # Those of the last batch count once it was read: they may bring plaintext.
        if batches.records > (MAX_BARE_RECORDS if is_open else MAX_HANDSHAKE_RECORDS):
            raise SideFailed(self._below.side)
        if batches.has_batch:
            ciphertext = batches.next()
        else:
            data = self._below.try_receive(FEED)
            if data is None:
                return False
            if not data:
                self._end()
                return True
            ciphertext = batches.take(data)
        if ciphertext:
            self._bare += self._incoming.write(ciphertext)
            if self._bare > MAX_BARE:
                raise SideFailed(self._below.side)
        return True

    def brought_plaintext(self) -> None:
        """Count anew: the last records have brought plaintext, or completed the handshake."""
        self._bare = self.batches.records = 0

    def _end(self) -> None:
        """Write what is left, and the end."""
        self.is_at_end = True
        self._incoming.write(self.batches.rest())
        self._incoming.write_eof()
