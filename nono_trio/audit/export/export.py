"""Exports sessions as they are now, in constant memory: what can be proved, up to the first fault.

Rules of this file: a session whose files contradict its log is exported up to there and told; the
others are exported all the same.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from nono_trio.audit import ledger, store
from nono_trio.audit.export import formats
from nono_trio.audit.export.facts import facts_of
from nono_trio.audit.export.formats import INGEST
from nono_trio.audit.export.session_reader import BATCH_BYTES, SessionReader
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.bound_facts import UNREADABLE
from nono_trio.core.export import nono_ingest
from nono_trio.errors import LogUnreadable, UsageError, rewritten, unreadable
from nono_trio.posix.safe_open import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nono_trio.audit.export.formats import LineFormat
    from nono_trio.audit.ledger import LedgerReport
    from nono_trio.core.export.exported import SessionFacts

    Write = Callable[[bytes], object]


class Exporter:
    """Writes sessions in one format; `write` takes bytes.

    `tenant` and `shipper` are for `nono-ingest`, `integrity` is for `ocsf`.
    """

    def __init__(
        self,
        form: str,
        write: Write,
        *,
        integrity: bool = False,
        tenant: str = "",
        shipper: str = "",
    ) -> None:
        self._form = form
        self._write = write
        self._integrity = integrity
        self._enrolment = (tenant, shipper)
        self._reports: dict[Path, LedgerReport | None] = {}

    def export(self, directory: Path) -> int:
        """Write one session and return the number of its lines (of records and flows).

        Raises LogRewritten after what could be exported of a tampered session, and LogUnreadable.
        """
        root = directory.parent
        if root not in self._reports:
            self._reports[root] = ledger.readable_report(root)
        found = bound_facts.look(directory, self._reports[root], files=True)
        fault = found.fault
        if fault is not None and fault.failure == UNREADABLE:
            raise LogUnreadable(
                f"session {directory.name} can't be read: {fault.got}",
                hint=f"`nono-trio audit verify {shlex.quote(str(directory))}` says why",
            )
        if self._form == INGEST:
            if fault is None:
                self._write_envelope(directory)
            count = 0 if fault is not None else 1
        else:
            count = self._write_lines(SessionReader(directory), facts_of(found))
        if fault is not None:
            raise rewritten(f"session {directory.name}: {fault.text}", directory)
        return count

    def _write_lines(self, reader: SessionReader, facts: SessionFacts) -> int:
        form: LineFormat = self._form  # type: ignore[assignment]  # not INGEST
        count = 0
        for batch in reader.batches():
            self._write(formats.encode(batch.lines, facts, form, integrity=self._integrity))
            count += len(batch.lines)
        return count

    def _write_envelope(self, directory: Path) -> None:
        metadata = store.read_metadata(directory)
        try:
            head = nono_ingest.envelope(metadata, *self._enrolment)
        except ValueError as error:
            from nono_trio.audit.recovery.recover_command import recover_command  # late: rare

            raise UsageError(
                f"session {directory.name} can't be delivered: {error}",
                hint=f"seal it first: {recover_command(directory)}",
            ) from error
        path = directory / store.LOG
        try:
            # Read first: half an envelope would spoil the line of the next session as well.
            for _ in nono_ingest.encode(head, _pieces(path)):
                pass
            for _ in SessionReader(directory).batches():
                pass  # raises LogRewritten if a record does not go on from the one before it
            for piece in nono_ingest.encode(head, _pieces(path)):
                self._write(piece)
        except UnicodeDecodeError as error:
            raise rewritten(f"{path} is not UTF-8", directory) from error
        except OSError as error:
            raise unreadable(path, error) from error


def _pieces(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        while piece := file.read(BATCH_BYTES):
            yield piece
