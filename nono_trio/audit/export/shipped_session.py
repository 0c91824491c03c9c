"""A session that the shipper has not sent whole yet: its facts, its reader, and when it is due.

Rules of this file: it reads files only. A crashed session is read again only after its log has
changed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.audit.export.facts import facts_of
from nono_trio.audit.export.session_reader import SessionReader
from nono_trio.audit.verify import bound_facts

if TYPE_CHECKING:
    from nono_trio.audit.export.cursor import Sent
    from nono_trio.audit.export.session_reader import Batch, Position
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.core.export.exported import SessionFacts


class ShippedSession:
    """A session that is not sent whole yet."""

    def __init__(self, found: StoredSession, sent: Sent) -> None:
        self.session_id = found.session_id
        self.started = found.started
        self.directory = found.directory
        self.facts: SessionFacts = facts_of(found)
        self.reader = SessionReader(found.directory, sent.position)
        self.supervisor = found.supervisor
        self.alive = found.alive
        self.was_sealed = found.sealed
        self._quiet: tuple[int, int, int] | None = None
        self.refused_at: int | None = None
        """How many batches the receiver had taken when it refused every line of one."""
        self.next_try = 0.0

    def is_due(self) -> bool:
        """Return False for a crashed session that has not changed since it was read to its end, and
        for one whose batch was refused lately."""
        if time.monotonic() < self.next_try:
            return False
        return self.alive or self._quiet is None or self._stamp() != self._quiet

    def rest(self) -> None:
        """Note that all there is has been read."""
        self._quiet = self._stamp()

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = (self.directory / store.LOG).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def look(self) -> StoredSession:
        """Compare the files beside the log with the seal that it has got by now; blocks."""
        return bound_facts.look(self.directory, files=True)

    def put_back(self, position: Position, seconds: float) -> None:
        """Read again from a position, after a wait."""
        self.reader = SessionReader(self.directory, position)
        self.next_try = time.monotonic() + seconds

    def read(self, *, wait: bool) -> Batch:
        """Return its next lines; blocks. With `wait`, a record of a live session waits for its
        program. Raises LogRewritten and LogUnreadable."""
        if self.alive:
            alive = self.supervisor is not None
            if self.supervisor is not None:
                alive = store.is_supervised(self.directory, self.supervisor)
            self.alive = alive and not self.reader.position.ended
        return self.reader.read(live=self.alive and wait)
