"""The proof of short logs while they are listed or shown.

Rules of this file: only a session without a fault is verified that is sealed, or that the ledger
has although it says it is not (its log must lead to the ledger's digest); only a log below
PROVED_BYTES (some 100,000 records), and only while there is time left. What was not verified stays
that way and is shown so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.audit import ledger, store
from nono_trio.audit.read.records import size_of
from nono_trio.audit.stored_session import FirstBad
from nono_trio.audit.verify.session import verify
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.audit.stored_session import StoredSession

PROVED_RECORDS: Final = 100_000
# As many records of a common size: half a second of work. A hostile summary may name a smaller
# number of records than there are.
PROVED_BYTES: Final = PROVED_RECORDS * 1024
# A list of many sessions: a person does not wait longer for a table.
SECONDS: Final = 2.0


class ProofOnTheWay:
    """Verifies sessions of one state directory, one after the other, for SECONDS in all.

    `report` is the one on its ledger, if there is one already.
    """

    def __init__(
        self, audit_root: Path, report: LedgerReport | None = None, *, seconds: float = SECONDS
    ) -> None:
        self._root = audit_root
        self._deadline = time.monotonic() + seconds
        self._report = report

    def prove(self, session: StoredSession) -> StoredSession:
        """Return `session` with `proved` set, or with the fault that was found."""
        if session.fault is not None or session.alive or time.monotonic() >= self._deadline:
            return session
        if not session.sealed and not self._was_sealed(session):
            return session
        if size_of(session.directory / store.LOG) >= PROVED_BYTES:
            return session
        answer = verify(session.directory, ledger=self._ledger(session.directory))
        if answer.verdict == "verified":
            return msgspec.structs.replace(session, proved=True)
        if answer.verdict != "tampered":
            return session
        unknown = FirstBad(failure="tampered", expected="a whole session", got="another")
        return msgspec.structs.replace(session, fault=answer.first_bad or unknown)

    def _was_sealed(self, session: StoredSession) -> bool:
        directory = session.directory
        try:
            report = self._ledger(directory) or ledger.verify(directory.parent, directory.name)
        except LogUnreadable:
            return False
        return report.has_line_for(directory.name)

    def _ledger(self, directory: Path) -> LedgerReport | None:
        """Return the report on the ledger, made once; None for a session elsewhere."""
        if directory.parent != self._root:
            return None
        if self._report is None:
            self._report = ledger.readable_report(self._root)
        return self._report
