"""The files that a live session appends to, and the hash state that advances with them.

Rules: a file is created exclusively, 0600, and only grows. An append happens whole or leaves the
file unchanged (a short write is continued, a failed one is cut back), so no record follows half of
another. The chain head, the Merkle tree and the segment checksum advance only after the bytes are
in the file. A file whose sync failed once is never durable again: the kernel drops the bytes that
it could not write, and reports that only once.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Self

import msgspec
import xxhash

from nono_trio.audit.write.disk_room import Room
from nono_trio.core.log.merkle import MerkleAccumulator
from nono_trio.core.log.record import encode_records
from nono_trio.posix.disk_sync import sync_data
from nono_trio.posix.safe_open import open_to_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.core.proof.accumulator import TreeAccumulator
    from nono_trio.core.proof.tree import Frontier

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_MADE = _FLAGS | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class SyncFailed(OSError):
    """A sync failed, now or before: bytes appended since the last good one may be lost."""


class AppendFile:
    """A file that only grows, by whole appends; `kept` bytes are reserved for the last append."""

    def __init__(self, path: Path, kept: int = 0) -> None:
        self._begin(path, os.open(path, _MADE, 0o600), 0, kept)

    @classmethod
    def reopen(cls, path: Path, offset: int) -> Self:
        """Reopen the file after a crash; bytes after the first `offset` are cut.

        A missing file is created. `audit recover` calls it, and keeps the cut bytes beside the
        file.
        """
        file = cls.__new__(cls)
        file._begin(path, open_to_write(path, _FLAGS), offset, None)
        file._cut_back()
        return file

    def _begin(self, path: Path, descriptor: int, offset: int, kept: int | None) -> None:
        self.path = path
        self.offset = offset
        self.descriptor = descriptor
        self.sync_error: str | None = None
        self._torn = False
        # A recovery adds little, and must be possible on a disk that is nearly full.
        self._room = None if kept is None else Room(descriptor, kept)
        self._free_until = 0  # an append that ends there needs no more room

    def hold_room(self) -> None:
        """Reserve the space for the last bytes; raises NoRoom."""
        self._require(self.offset)

    def _require(self, end: int) -> None:
        if self._room is not None:
            self._free_until = self._room.require(end)

    def append(self, data: bytes, *, last: bool = False) -> None:
        """Append all of `data` or nothing; raises OSError with nothing appended.

        The `last` bytes use the space reserved for them; for other bytes NoRoom is raised if the
        disk has no other space. The caller's thread writes: some 30 microseconds for a full batch,
        less than the hop to another thread.
        """
        if self._torn:
            self._cut_back()
        size = len(data)
        end = self.offset + size
        if end > self._free_until and not last:
            self._require(end)
        written = self.write(data)
        if written < size:
            self._write_rest(memoryview(data)[written:])
        self.offset = end

    def _write_rest(self, data: memoryview) -> None:
        """Go on after a short write. If that fails, the file is as before it, or cut back with the
        next append."""
        self._torn = True
        try:
            while data:
                data = data[self.write(data) :]
        except OSError:
            self._cut_back()
            raise
        self._torn = False

    def write(self, data: bytes | memoryview) -> int:
        """Write some of `data`, return how much: one system call, which tests let fail."""
        return os.write(self.descriptor, data)

    def sync(self) -> None:
        """Make all appended bytes durable; blocks as long as the disk takes.

        Raises SyncFailed, also at each later call: a second try may succeed without the lost bytes.
        """
        if self.sync_error is not None:
            raise SyncFailed(errno.EIO, f"an earlier sync failed: {self.sync_error}")
        try:
            self.flush()
        except OSError as error:
            self.sync_error = error.strerror or str(error)
            raise SyncFailed(
                error.errno or errno.EIO, f"a sync failed: {self.sync_error}"
            ) from error

    def flush(self) -> None:
        """Sync the file: one system call, which tests let fail."""
        sync_data(self.descriptor)

    def check_identity(self) -> None:
        """Raise OSError if the file was deleted, replaced or resized by another program.

        Writing to a deleted log raises no error: every later record would go to a file without a
        name (as in Kubernetes' strict mode, kubernetes#111208).
        """
        expected = self.offset  # read before the size: in another thread the log may grow
        ours = os.fstat(self.descriptor)
        if ours.st_nlink == 0:
            raise FileNotFoundError(2, "the file was deleted underneath", str(self.path))
        named = os.stat(self.path, follow_symlinks=False)
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            raise OSError(5, "the file was replaced underneath", str(self.path))
        if ours.st_size < expected:
            raise OSError(5, "the file was cut underneath", str(self.path))

    def release_room(self) -> None:
        """Release the reserved space; nothing is appended any more. Raises OSError."""
        if self._room is not None:
            self._room.release(self.offset)
            self._free_until = 0

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        os.close(self.descriptor)

    def _cut_back(self) -> None:
        os.ftruncate(self.descriptor, self.offset)
        self._torn = False


class LogPosition(msgspec.Struct, frozen=True):
    """The end of a log, as a checkpoint records it."""

    event_count: int
    offset: int
    chain_head: str | None
    merkle_root: str
    segment_xxh3: str
    proof_root: bytes | None = None
    """The root of the RFC 6962 tree, in a signed session."""


class ChainedLog(msgspec.Struct):
    """The hash-chained log: a file and the state of its chain.

    `tree` and `segment` are given to continue a log that was read before. `proof_tree` is the RFC
    6962 tree of a signed session: it costs 0.9 microseconds a record.
    """

    file: AppendFile
    sequence: int = 0
    head: bytes | None = None
    tree: TreeAccumulator = msgspec.field(default_factory=MerkleAccumulator)
    segment: xxhash.xxh3_64 = msgspec.field(default_factory=xxhash.xxh3_64)
    proof_tree: Frontier | None = None
    _next_segment: xxhash.xxh3_64 | None = None

    def append(self, payloads: Sequence[bytes], *, last: bool = False) -> int:
        """Append payloads (canonical JSON) as records in ONE write; return the first's sequence.

        Raises OSError with nothing appended and nothing advanced. `last`: as `AppendFile.append`.
        """
        first = self.sequence
        data, leaves, head = encode_records(first, self.head, payloads)
        self.file.append(data, last=last)
        self.tree.extend(leaves)
        if self.proof_tree is not None:
            self.proof_tree.add_data(payloads)
        self.segment.update(data)
        if self._next_segment is not None:
            self._next_segment.update(data)
        self.sequence, self.head = first + len(leaves), head
        return first

    def position(self) -> LogPosition:
        """Return the end of the log, for one checkpoint; `checkpointed` must follow."""
        self._next_segment = xxhash.xxh3_64()
        return LogPosition(
            event_count=self.sequence,
            offset=self.file.offset,
            chain_head=self.head.hex() if self.head else None,
            merkle_root=self.tree.root().hex(),
            segment_xxh3=self.segment.hexdigest(),
            proof_root=self.proof_tree.root() if self.proof_tree is not None else None,
        )

    def checkpointed(self, *, written: bool) -> None:
        """Begin a new segment at the last position, or continue the old one if no checkpoint was
        written.

        Both segments are fed meanwhile: a checkpoint that fails must not shift the next one's.
        """
        if written and self._next_segment is not None:
            self.segment = self._next_segment
        self._next_segment = None
