"""The append-only files of a session together: how they are opened, locked and checkpointed.

Loop-free, so that `audit recover` seals with the writer's own code. Rules: whoever appends holds an
exclusive flock on the log, which the kernel gives back when its holder dies: a live session and a
recovery can't meet, not even where they can't see each other's processes (a container that shares
the state directory); a checkpoint is written only over a log that was synced before.
"""

from __future__ import annotations

import fcntl
import hashlib
from datetime import UTC, datetime
from time import time_ns
from typing import TYPE_CHECKING

from msgspec import UNSET

from nono_trio.audit.log import AppendFile, ChainedLog
from nono_trio.audit.store import CHECKPOINTS, FLOWS, LOG
from nono_trio.core.metadata import Checkpoint, encode_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.log import LogPosition

# The target of records that are about the log itself: no host name has a colon in it.
LOST_TARGET = "nono-trio:audit"


def rfc3339(time: datetime | None = None) -> str:
    """Return `time` (default: now) in UTC, RFC 3339, microseconds."""
    moment = time or datetime.now(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def unix_ms() -> int:
    """Return the wall clock in milliseconds since 1970."""
    return time_ns() // 1_000_000


class LogFiles:
    """The three append-only files of a session; opened exclusively, closed together."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = ChainedLog(AppendFile(directory / LOG))
        lock(self.log.file.descriptor)
        self.checkpoints = AppendFile(directory / CHECKPOINTS)
        self.flows = AppendFile(directory / FLOWS)
        self.flows_sha256 = hashlib.sha256()

    def checkpoint(self, position: LogPosition, lost: int, *, final: bool = False) -> None:
        """Append a checkpoint for a log that is already synced, and sync it. Blocking."""
        flows_sha256 = self.flows_sha256.hexdigest() if final else None
        append_checkpoint(self.checkpoints, position, lost, flows_sha256)

    def close(self) -> None:
        """Close all three."""
        for file in (self.log.file, self.checkpoints, self.flows):
            file.close()


def append_checkpoint(
    file: AppendFile, position: LogPosition, lost: int, flows_sha256: str | None
) -> None:
    """Append a checkpoint to `file` and sync it; the final one if the flows are hashed."""
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
    )
    file.append(encode_checkpoint(checkpoint))
    file.sync()


def lock(descriptor: int) -> None:
    """Hold the session until `descriptor` is closed; raises BlockingIOError if another does."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
