"""session.json from its first moment to the seal, and the order in which a session is sealed.

Rules: session.json is there, open, before anything of the session happens, so that a crash leaves
a session that can be listed and verified. Sealing is one blocking function: sync, last checkpoint,
ledger line, session.json. The ledger comes before session.json says "sealed": a crash between the
two leaves an open session that can still be recovered, never a sealed one that its ledger does
not know. What the seal writes has its room from the start; a session that can't start leaves
nothing behind.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from nono_trio import __version__
from nono_trio.audit import ledger, store
from nono_trio.audit.files import LogFiles, rfc3339
from nono_trio.audit.machine import boot_id, process_start_ticks
from nono_trio.core.bounded import bounded_command
from nono_trio.core.events import Network
from nono_trio.core.metadata import (
    MAX_NETWORK_EVENTS,
    AuditIntegrity,
    ExecutableIdentity,
    NonoTrioFacts,
    SessionMetadata,
    completed_at,
    encode_metadata,
    session_digest,
)
from nono_trio.core.redaction import redact_argv

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.audit.log import LogPosition
    from nono_trio.audit.writer import Totals
    from nono_trio.core.events import NetworkEvent, Payload, SessionEnded


# In the sealed session.json beside the network events: hashes, counts, times.
SEAL_BYTES = 16 * 1024


@dataclass(frozen=True)
class SessionFacts:
    """What is known of a session before it starts."""

    command: Sequence[str]
    name: str | None
    tracked_paths: Sequence[str]
    isolation: str
    enforcement: Sequence[str]
    audit_mode: str
    audit_sync: str
    working_directory: str
    home: str | None = None  # `kept NAME`, `private` or `closed`


class SessionRecord:
    """One session's directory and its session.json."""

    def __init__(self, audit_root: Path, facts: SessionFacts) -> None:
        """Create the directory, the log files and the open session.json; raises OSError."""
        self.session_id = store.new_session_id()
        self.started = rfc3339()
        self._began = time.monotonic()
        self._audit_root = audit_root
        self.command = bounded_command(redact_argv(facts.command))
        self._network_events: list[NetworkEvent] = []
        self.executable: ExecutableIdentity | None = None
        self._metadata = SessionMetadata(
            session_id=self.session_id,
            started=self.started,
            command=self.command,
            tracked_paths=list(facts.tracked_paths),
            merkle_roots=[],
            nono_trio=_open_facts(facts),
        )
        self.directory = store.create_session_directory(audit_root, self.session_id)
        try:
            self.files = LogFiles(self.directory)
            store.write_session_json(self.directory, self._metadata)
            self.files.hold_for_seal(len(encode_metadata(self._metadata)) + SEAL_BYTES)
        except BaseException:
            store.discard_session_directory(self.directory)
            raise

    def observe(self, _sequence: int, payload: Payload) -> None:
        """Keep the first network events for session.json: bounded, the log is the truth."""
        if isinstance(payload, Network) and len(self._network_events) < MAX_NETWORK_EVENTS:
            self._network_events.append(payload.event)

    def seal(self, ended: SessionEnded, totals: Totals) -> None:
        """Make the finished log durable and say so everywhere. Blocking; raises OSError.

        Call it once, in a thread, after the writer has ended: nothing is appended any more.
        """
        log = self.files.log
        self.files.check_identity()
        log.file.sync()
        self.files.flows.sync()
        position = log.position()
        self.files.checkpoint(position, totals.lost, final=True)
        with suppress(OSError):  # what stays held is given back with the directory
            self.files.release_room()
        metadata = sealed_metadata(
            self._metadata,
            ended,
            position,
            self._network_events,
            status="sealed",
            peak_queue=totals.peak_queue,
            lost_total=totals.lost,
            allowed_total=totals.allowed,
            denied_total=totals.denied,
            duration_ms=round((time.monotonic() - self._began) * 1000),
        )
        metadata.executable_identity = self.executable
        ledger.append(
            self._audit_root, self.session_id, session_digest(metadata), completed_at(metadata)
        )
        store.write_session_json(self.directory, metadata)
        self.files.close()


def sealed_metadata(
    opened: SessionMetadata,
    ended: SessionEnded,
    position: LogPosition,
    network_events: list[NetworkEvent],
    **facts: Any,  # noqa: ANN401  (fields of NonoTrioFacts)
) -> SessionMetadata:
    """Return what session.json says of a log that is whole: `opened`, with the seal's facts."""
    metadata = msgspec.structs.replace(
        opened,
        ended=ended.ended,
        exit_code=ended.exit_code,
        network_events=network_events,
        audit_event_count=position.event_count,
        audit_integrity=AuditIntegrity(
            event_count=position.event_count,
            chain_head=position.chain_head or "",
            merkle_root=position.merkle_root,
        ),
    )
    if isinstance(metadata.nono_trio, NonoTrioFacts):
        metadata.nono_trio = msgspec.structs.replace(metadata.nono_trio, **facts)
    return metadata


def _open_facts(facts: SessionFacts) -> NonoTrioFacts:
    return NonoTrioFacts(
        version=__version__,
        name=facts.name,
        status="open",
        supervisor_pid=os.getpid(),
        supervisor_start_ticks=process_start_ticks(os.getpid()) or 0,
        boot_id=boot_id(),
        isolation=facts.isolation,
        enforcement=list(facts.enforcement),
        audit_mode=facts.audit_mode,
        audit_sync=facts.audit_sync,
        working_directory=facts.working_directory,
        home=msgspec.UNSET if facts.home is None else facts.home,
    )
