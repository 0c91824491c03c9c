"""The answer of `audit show --json`: a session and its story, as a type (docs/schemas).

The rules are those of cli/answers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nono_trio.audit.read.programs import ProgramCount  # noqa: TC001  (these are for msgspec)
from nono_trio.audit.read.status import Status  # noqa: TC001
from nono_trio.audit.read.summary import HostCount  # noqa: TC001
from nono_trio.audit.stored_session import FirstBad  # noqa: TC001
from nono_trio.core.log.events import Network, NetworkEvent, SandboxRuntimeEvent
from nono_trio.core.log.policy_json import SessionPolicy  # noqa: TC001
from nono_trio.core.log.session_json import SessionSummary  # noqa: TC001
from nono_trio.core.log.summary_json import SealSummary  # noqa: TC001
from nono_trio.errors import JSON_SCHEMA

if TYPE_CHECKING:
    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.read.summary import Story
    from nono_trio.audit.stored_session import StoredSession


class DeniedFile(msgspec.Struct, kw_only=True, frozen=True):
    """A look-up of a file that was not granted, and the place of its first record."""

    path: str
    access: str
    sequence: int


class TimelineRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A network record of the timeline."""

    sequence: int
    event: NetworkEvent | None


class Timeline(msgspec.Struct, kw_only=True, frozen=True):
    """The first and last network records; `between` counts the others."""

    first: list[TimelineRecord]
    between: int
    last: list[TimelineRecord]


class ShowAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of `audit show`.

    `session` is session.json without its network events, `policy` and `totals` are policy.json and
    summary.json; null for what the log does not bind yet. `counts_bound`: the log binds the counts.
    `proved`: its whole log was verified on the way. `imported` is when it came from another
    machine. `fault` is the first contradiction in its files.
    """

    schema: int = JSON_SCHEMA
    session_id: str
    status: Status
    directory: str
    session: SessionSummary | None
    proved: bool
    imported: str | None
    fault: FirstBad | None
    policy: SessionPolicy | None
    totals: SealSummary | None
    counts_bound: bool
    sandbox_runtime: SandboxRuntimeEvent | None
    event_count: int
    allowed: int
    denied: int
    failed: int
    connections: int
    bytes_up: int
    bytes_down: int
    hosts: list[HostCount]
    denied_files: list[DeniedFile]
    programs: list[ProgramCount]
    timeline: Timeline


def show_answer(session: StoredSession, status: Status, story: Story) -> ShowAnswer:
    """Return the answer for a session and its story."""
    return ShowAnswer(
        session_id=session.session_id,
        status=status,
        directory=str(session.directory),
        session=session.summary,
        proved=session.proved,
        imported=session.imported,
        fault=session.fault,
        policy=session.policy,
        totals=session.totals,
        counts_bound=status == "sealed",
        sandbox_runtime=story.sandbox,
        event_count=story.events,
        allowed=story.attempts.allowed,
        denied=story.attempts.denied,
        failed=story.attempts.failed,
        connections=story.connections,
        bytes_up=story.bytes_up,
        bytes_down=story.bytes_down,
        hosts=story.hosts_by_weight(),
        denied_files=[
            DeniedFile(path=path, access=access, sequence=sequence)
            for (path, access), sequence in story.files.items()
        ],
        programs=story.programs,
        timeline=Timeline(
            first=[*map(_timeline_record, story.first)],
            between=story.between,
            last=[*map(_timeline_record, story.last)],
        ),
    )


def _timeline_record(record: LogRecord) -> TimelineRecord:
    event = record.event.event if isinstance(record.event, Network) else None
    return TimelineRecord(sequence=record.sequence, event=event)
