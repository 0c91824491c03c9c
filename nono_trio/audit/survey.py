"""What a crash left of a session: one reading of its log, by `audit verify`'s own pass.

Rules of this file: nothing is changed here; whatever verify would call tampering is a fault here
too, for sealing such a log would make it look whole. Memory is bounded as in session.json.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.audit.files import LOST_TARGET, rfc3339
from nono_trio.audit.log import ChainedLog
from nono_trio.audit.log_check import LogCheck
from nono_trio.audit.read import lines_backwards, size_of
from nono_trio.audit.seal_check import LAST_RECORD, SESSION_MISMATCH, differs
from nono_trio.audit.verdict import FirstBad
from nono_trio.audit.verify import ID_MISMATCH
from nono_trio.core.events import Network
from nono_trio.core.metadata import MAX_NETWORK_EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.checkpoints import CheckpointCursor
    from nono_trio.audit.log import AppendFile
    from nono_trio.core.events import NetworkEvent, Payload, SessionEnded
    from nono_trio.core.metadata import Checkpoint, SessionMetadata

# The writer's own words for a gap. A request can't say them: a refused one's reason is fixed text.
_GAP = re.compile(r"([0-9]{1,18}) events lost: ")


class Survey:
    """One reading of an unsealed session; raises OSError and LogUnreadable when it can't be read.

    `allowed` and `denied` are counted as the writer counts them; `whole` says how many bytes of
    each file are whole lines.
    """

    def __init__(self, directory: Path) -> None:
        self.network_events: list[NetworkEvent] = []
        self.allowed = 0
        self.denied = 0
        self._lost = 0
        self._last_decision_ms = 0
        self._directory = directory
        # As verify does: the checkpoints' size first, so that none covers bytes that came later.
        checkpoints = directory / store.CHECKPOINTS
        checkpoints_size = size_of(checkpoints)
        log = directory / store.LOG
        flows = directory / store.FLOWS
        self._check = LogCheck(log, size_of(log), strict=True, sealed=False, observe=self.observe)
        self._check.run(checkpoints, checkpoints_size)
        self.whole = {
            store.LOG: self._check.good_bytes,
            store.CHECKPOINTS: self._cursor.whole_bytes if self._check.cursor else 0,
            store.FLOWS: next(lines_backwards(flows, size_of(flows)), (0, b""))[0],
        }

    def observe(self, payload: Payload) -> None:
        """Count one good record."""
        if not isinstance(payload, Network):
            return
        event = payload.event
        if len(self.network_events) < MAX_NETWORK_EVENTS:
            self.network_events.append(event)
        if event.target == LOST_TARGET:
            gap = _GAP.match(event.reason or "")
            self._lost += int(gap[1]) if gap else 0
            return
        self._last_decision_ms = max(self._last_decision_ms, event.timestamp_unix_ms)
        self.allowed += event.decision == "allow"
        self.denied += event.decision == "deny"

    @property
    def count(self) -> int:
        """Records that are good."""
        return self._check.chain.count

    @property
    def ended(self) -> SessionEnded | None:
        """The log's own end, where the supervisor was lost only after writing it."""
        return self._check.ended

    @property
    def last_checkpoint(self) -> Checkpoint | None:
        """The last whole checkpoint."""
        return self._cursor.last

    @property
    def lost(self) -> int:
        """Events that were lost while recording; a final checkpoint has the last word."""
        last = self.last_checkpoint
        if last is not None and last.final:
            return last.lost_total
        return max(last.lost_total if last is not None else 0, self._lost)

    def fault(self, metadata: SessionMetadata) -> FirstBad | None:
        """What makes it more than a crash; None for a session that may be sealed."""
        if self._check.first_bad is not None:
            return self._check.first_bad
        last = self.last_checkpoint
        if last is not None and last.final and self.ended is None:
            expected = "session_ended before the final checkpoint"
            return FirstBad(failure=LAST_RECORD, expected=expected, got="none")
        fault = differs(ID_MISMATCH, self._directory.resolve().name, metadata.session_id)
        started = self._check.started
        if fault is not None or started is None:
            return fault
        return differs(
            SESSION_MISMATCH, f"started {started.started}", f"started {metadata.started}"
        ) or differs(SESSION_MISMATCH, f"command {started.command}", f"command {metadata.command}")

    def last_sign_of_life(self, started: str) -> str:
        """The latest of: the start, the last checkpoint, the last decision (RFC 3339)."""
        last = self.last_checkpoint
        times = [started, last.time if last is not None else ""]
        with contextlib.suppress(ValueError, OverflowError, OSError):  # a time past the calendar
            times.append(rfc3339(datetime.fromtimestamp(self._last_decision_ms / 1000, UTC)))
        known = [(parsed, text) for text in times if (parsed := store.parse_time(text))]
        return max(known)[1] if known else started

    def resume(self, file: AppendFile) -> ChainedLog:
        """Return the log as it stands, ready for the next record, on its reopened file."""
        chain = self._check.chain
        return ChainedLog(file, chain.count, chain.head, chain.tree, self._cursor.segment)

    @property
    def _cursor(self) -> CheckpointCursor:
        cursor = self._check.cursor
        if cursor is None:
            raise AssertionError("a log whose checkpoints are damaged has a fault")
        return cursor
