"""Syncs of the log and its checkpoints: at intervals, and after each batch if that is asked for.

Rules of this file:
- A sync runs in a thread, never on the loop; one at a time, so that checkpoints are in order.
- Each pass also checks that the log was neither deleted nor replaced.
- The log's last checkpoint is not made here: the seal makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.chained_log import LogPosition
    from nono_trio.audit.write.recorder import AuditSync
    from nono_trio.audit.write.session_files import LogFiles

SYNC_SECONDS = 1.0
# A checkpoint even when idle, so that a silent log still shows that time passed.
IDLE_CHECKPOINT_SECONDS = 60.0


class Checkpointer:
    """Syncs `files` as `sync` says. `lost` returns how many events were lost so far."""

    def __init__(self, files: LogFiles, sync: AuditSync, lost: Callable[[], int]) -> None:
        self._files = files
        self._sync = sync
        self._lost = lost
        self._is_stopped = trio.Event()
        self._checkpointing = trio.Lock()
        self._checkpointed = -1
        self._checkpoint_at = float("-inf")
        # A limiter of its own, so that name look-ups never delay a sync; one thread, so that syncs
        # are in order.
        self.thread = trio.CapacityLimiter(1)
        self._batches = trio.CapacityLimiter(1)

    @trio.lowlevel.enable_ki_protection  # in a program that has no receiver of signals
    async def run(self, failed: Callable[[OSError], None]) -> None:
        """Write a checkpoint every second until `stop`. Each error is handed to `failed`, and what
        that raises is raised."""
        while True:
            with trio.move_on_after(SYNC_SECONDS):
                await self._is_stopped.wait()
            if self._is_stopped.is_set():
                return
            try:
                await self.checkpoint()
            except OSError as error:
                failed(error)

    def stop(self) -> None:
        """End `run`: the queue is drained."""
        self._is_stopped.set()

    async def sync_batch(self) -> None:
        """Make a batch durable before its producers are released. Raises OSError.

        A signed checkpoint follows with the next pass of `run`: no producer waits for a signer.
        """
        if self._files.signer is None:
            await self.checkpoint()
        else:
            await in_thread(self._sync_log, limiter=self._batches)

    async def checkpoint(self, *, forced: bool = False) -> None:
        """Sync the log and write a checkpoint, one pass at a time, in order. Raises OSError.

        `forced`: also where syncs are left to the system.

        If cancelled, the thread is abandoned (a stuck disk can't be interrupted) and the files must
        not be used again: only the writer's own deadline and its failure cancel here.
        """
        async with self._checkpointing:
            position = self._files.log.position() if forced or self._due() else None
            written = False
            try:
                await in_thread(self._sync_now, position, limiter=self.thread)
                written = position is not None
            finally:
                self._files.log.checkpointed(written=written)
            if position is not None:
                self._checkpointed = position.event_count
                self._checkpoint_at = trio.current_time()

    def _due(self) -> bool:
        if self._sync == "never":
            return False
        if self._files.log.sequence != self._checkpointed:
            return True
        return trio.current_time() - self._checkpoint_at >= IDLE_CHECKPOINT_SECONDS

    def _sync_log(self) -> None:
        with self._files.in_use():
            self._files.log.file.sync()

    def _sync_now(self, position: LogPosition | None) -> None:
        with self._files.in_use():
            self._files.check_identity()
            if position is not None:
                self._files.log.file.sync()
                self._files.checkpoint(position, self._lost())
