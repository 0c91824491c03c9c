"""The append-only files of a session together: opening, locking and checkpointing.

It works without the loop, so that `audit recover` seals with the writer's own code. Rules: the
process that appends holds an exclusive flock on the log, which the kernel releases when it dies. So
a live session and a recovery exclude each other, even if neither sees the other's process (a
container that shares the state directory). A checkpoint is written only after a sync of the log,
and never again once a sync of any of the files has failed. The space for the last bytes of each
file is reserved from the start. No descriptor is closed while a thread works with it: its number
may be another file's by the time that a disk which hung answers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from typing import TYPE_CHECKING

from msgspec import UNSET

from nono_trio.audit.store import CHECKPOINTS, FLOWS, LOG, NEW_SESSION, PROCESSES
from nono_trio.audit.write.chained_log import AppendFile, ChainedLog, SyncFailed
from nono_trio.audit.write.disk_room import CHUNK, hold_file
from nono_trio.core.log.session_json import MAX_NETWORK_EVENTS, Checkpoint, encode_checkpoint
from nono_trio.posix.clock import rfc3339
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.posix.safe_open import open_regular, open_to_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.write.chained_log import LogPosition
    from nono_trio.audit.write.checkpoint_signer import CheckpointSigner
    from nono_trio.audit.write.state_modes import StateModes

# Reserved at the end of a log: gap records (one for each kind of error), a summary, the end.
KEPT_FOR_LOG = 32 * 1024
KEPT_FOR_CHECKPOINTS = 8 * 1024  # the final one, with two signatures

INDENTATION = 512  # the extra size of an event in session.json, with every field set


class LogFiles:
    """The four append-only files of a session; opened exclusively, closed together."""

    def __init__(self, directory: Path) -> None:
        """Create them and reserve the space for their ends; raises OSError, with none left open."""
        self.directory = directory
        self.flows_sha256 = hashlib.sha256()
        self._seal_events = self._seal_bytes = self._seal_held = 0
        self.modes: StateModes | None = None
        self.signer: CheckpointSigner | None = None
        self._guard = threading.Lock()  # of the two below; held for no system call
        self._threads = 0
        self._is_closing = False
        with contextlib.ExitStack() as opened, as_owner_of_path(directory):
            self.log = ChainedLog(_created(directory / LOG, KEPT_FOR_LOG, opened))
            lock(self.log.file.descriptor)
            self.checkpoints = _created(directory / CHECKPOINTS, KEPT_FOR_CHECKPOINTS, opened)
            self.flows = _created(directory / FLOWS, 0, opened)
            self.processes = _created(directory / PROCESSES, 0, opened)
            opened.pop_all()

    def sign_with(self, signer: CheckpointSigner) -> None:
        """Have each checkpoint signed; call it before the first record."""
        from nono_trio.core.proof.tree import Frontier  # late: few sessions are signed

        self.signer = signer
        self.log.proof_tree = Frontier()

    def moved_to(self, directory: Path) -> None:
        """Use the new name of the directory, and of the files in it."""
        self.directory = directory
        for file in self.all:
            file.path = directory / file.path.name

    @property
    def all(self) -> tuple[AppendFile, ...]:
        """The files."""
        return self.log.file, self.checkpoints, self.flows, self.processes

    def check_identity(self) -> None:
        """Raise OSError if one of them was deleted, replaced or cut by another program."""
        try:
            for file in self.all:
                file.check_identity()
        except PermissionError:  # the command changed the mode of a directory of ours
            if self.modes is None:
                raise
            self.modes.heal()
            for file in self.all:
                file.check_identity()

    def require_durable(self) -> None:
        """Raise SyncFailed if a sync of any of them has failed."""
        for file in self.all:
            if file.sync_error is not None:
                raise SyncFailed(errno.EIO, f"an earlier sync failed: {file.sync_error}")

    def hold_for_seal(self, size: int, events: int = 0) -> None:
        """Reserve `size` more bytes for the sealed session.json, a chunk ahead.

        With `events` they are that many records: session.json repeats only the first of a log.
        Raises OSError, and NoRoom among them.
        """
        if events and self._seal_events >= MAX_NETWORK_EVENTS:
            return
        needed = self._seal_bytes + size + events * INDENTATION
        if needed > self._seal_held:
            with as_owner_of_path(self.directory):
                hold_file(self.directory / NEW_SESSION, needed + CHUNK)
            self._seal_held = needed + CHUNK
        self._seal_bytes = needed
        self._seal_events += events

    def checkpoint(self, position: LogPosition, lost: int, *, final: bool = False) -> Checkpoint:
        """Append a checkpoint for a log that is already synced, and sync it. Blocking.

        Raises SyncFailed, with nothing appended, if a sync of any of the files has failed before,
        and SignerFailed if the checkpoint can't be signed.
        """
        self.require_durable()
        flows_sha256 = self.flows_sha256.hexdigest() if final else None
        return append_checkpoint(self.checkpoints, position, lost, flows_sha256, self.signer)

    def release_room(self) -> None:
        """Release the space reserved for their ends, after the last byte is written. Raises
        OSError."""
        for file in self.all:
            file.release_room()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep them open while a thread runs the body; raises OSError if they are closed."""
        with self._guard:
            if self._is_closing:
                raise OSError(errno.EBADF, "the session has closed its files")
            self._threads += 1
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Close them and release the lock, now or once no thread works with them any more.

        Called again it does nothing. Safe to call from any thread.
        """
        with self._guard:
            is_last = not self._is_closing and not self._threads
            self._is_closing = True
        if is_last:
            self._close_all()

    def _leave(self) -> None:
        with self._guard:
            self._threads -= 1
            is_last = self._is_closing and not self._threads
        if is_last:
            self._close_all()

    def _close_all(self) -> None:
        for file in self.all:
            file.close()


def _created(path: Path, kept: int, opened: contextlib.ExitStack) -> AppendFile:
    file = AppendFile(path, kept)
    opened.callback(file.close)
    file.hold_room()
    return file


def append_checkpoint(
    file: AppendFile,
    position: LogPosition,
    lost: int,
    flows_sha256: str | None,
    signer: CheckpointSigner | None = None,
    *,
    recovered: bool = False,
) -> Checkpoint:
    """Append a checkpoint to `file` and sync it; it is the final one if it has the flows' hash.

    A signed one says that it is of a recovery (`recovered`), which took its records from the disk.
    """
    checkpoint = Checkpoint(
        time=rfc3339(),
        event_count=position.event_count,
        offset=position.offset,
        chain_head=position.chain_head,
        merkle_root=position.merkle_root,
        lost_total=lost,
        segment_xxh3=position.segment_xxh3,
        final=flows_sha256 is not None,
        flows_sha256=UNSET if flows_sha256 is None else flows_sha256,
        recovered=True if recovered and signer is not None else UNSET,
    )
    if signer is not None and position.proof_root is not None:
        checkpoint = signer.sign(checkpoint, position.proof_root)
    file.append(encode_checkpoint(checkpoint), last=checkpoint.final)
    file.sync()
    return checkpoint


def open_to_lock(log: Path) -> int:
    """Open a log for its lock; raises OSError, also for anything but a file.

    One that can't be written is opened for reading: another process may have its lock all the same.
    """
    with contextlib.suppress(OSError):  # a lock in a network's file system needs the right to write
        return open_to_write(log, os.O_RDWR)
    with open_regular(log, follow=False) as file:
        return os.dup(file.fileno())


def lock(descriptor: int) -> None:
    """Lock the session until `descriptor` is closed; raises BlockingIOError if it is locked."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
