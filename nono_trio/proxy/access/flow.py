"""What came of an allowed request: the line in flows.ndjson, made when its connection ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import UNSET

from nono_trio.core.log.events import Flow

if TYPE_CHECKING:
    from nono_trio.core.log.events import ClosedBy
    from nono_trio.proxy.access.decision import Subject


@dataclass(slots=True)
class Opened:
    """When and to where an allowed request was connected."""

    subject: Subject
    sequence: int
    address: str
    opened_unix_ms: int
    name: str | None = None
    started: float = field(default_factory=time.monotonic)

    def flow(self, bytes_up: int, bytes_down: int, closed_by: ClosedBy) -> Flow:
        """What came of it, now that it has ended."""
        return Flow(
            sequence=self.sequence,
            target=self.subject.target,
            port=self.subject.port,
            address=self.address,
            opened_unix_ms=self.opened_unix_ms,
            duration_ms=int((time.monotonic() - self.started) * 1000),
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            closed_by=closed_by,
            name=self.name or UNSET,
        )
