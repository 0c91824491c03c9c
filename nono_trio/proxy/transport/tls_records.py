"""Cuts received ciphertext into batches of whole records, for OpenSSL.

Each new key costs OpenSSL 30 us, and a record for one has 27 bytes: 64 KiB of them would hold the
loop for 0.1 s. So OpenSSL gets BATCH records at once.

Rules of this file: bytes are neither changed nor checked, only the lengths in the headers are read
(RFC 8446 5.1). At most a part of a header is held if no batch is left.
"""

from __future__ import annotations

from typing import Final

BATCH: Final = 64  # records that OpenSSL gets at once
HEADER: Final = 5  # bytes of a record's header


class RecordBatches:
    """The ciphertext that OpenSSL has not got yet."""

    __slots__ = ("_held", "_left", "has_batch", "records")

    def __init__(self, early: bytes = b"") -> None:
        self.has_batch = bool(early)
        """`next` returns bytes without another `add`."""
        self.records = 0
        """The number of records that have begun in the batches so far; the caller may reset it."""
        self._held = early
        self._left = 0  # bytes of the last record that are still to come

    def add(self, data: bytes) -> None:
        """Append bytes that were received."""
        self._held += data
        self.has_batch = True

    def take(self, data: bytes) -> bytes:
        """As `add`, then `next`. One whole record, as a small message comes, is not looked at
        twice; no batch must be left."""
        is_between = not self._held and not self._left and len(data) >= HEADER
        if is_between and len(data) == HEADER + int.from_bytes(data[3:HEADER], "big"):
            self.records += 1
            return data
        self.add(data)
        return self.next()

    def next(self) -> bytes:
        """Return the next batch; it ends within a record only if no more has come."""
        held, at = self._held, self._left
        for _ in range(BATCH):
            if at + HEADER > len(held):
                break
            at += HEADER + int.from_bytes(held[at + 3 : at + HEADER], "big")
            self.records += 1
        self._left = max(0, at - len(held))
        end = min(at, len(held))
        self._held = held[end:]
        self.has_batch = len(self._held) >= HEADER
        return held[:end]

    def rest(self) -> bytes:
        """Return all that is held, at the end of the connection."""
        held, self._held = self._held, b""
        self.has_batch = False
        return held
