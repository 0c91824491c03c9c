"""The panels of `audit show` on a terminal: the facts of render.py, one panel for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.cli.audit.render import (
    MAX_HOST_ROWS,
    MAX_PROGRAM_ROWS,
    SHOWN_DIGITS,
    cage_rows,
    host_rows,
    result_rows,
    session_rows,
)
from nono_trio.cli.parts import Column, Decisions, Facts, Table
from nono_trio.cli.session_rows import file_text, policy_rows
from nono_trio.cli.text import clean, counted, decision_cells
from nono_trio.core.log.events import Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.audit.read.programs import ProgramCount
    from nono_trio.audit.read.records import LogRecord
    from nono_trio.audit.read.status import Status
    from nono_trio.audit.read.summary import Story
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.cli.parts import Part

HOST_COLUMNS = (
    Column("DECISION", states=True),
    Column("HOST", flexible="fold"),
    Column("REQUESTS", right=True, leaves=4),
    Column("UP", right=True, leaves=2),
    Column("DOWN", right=True, leaves=3),
    Column("ADDRESS", flexible="fold", leaves=1),
)
PROGRAM_COLUMNS = (
    Column("PROGRAM", flexible="fold"),
    Column("DENIED", right=True, denials=True),
    Column("FAILED", right=True, leaves=4),
    Column("ALLOWED", right=True, leaves=5),
    Column("PIDS", right=True, leaves=3),
    Column("SHA-256", leaves=1),
    Column("FILE", flexible="fold", leaves=2),
)


def show_parts(session: StoredSession, status: Status, story: Story) -> Iterator[Part]:
    """The panels in order; those without a fact are left out."""
    results = [*result_rows(session, status, story)]
    if story.files:
        results.append(("files", file_text([*story.files])))
    for title, rows in (
        ("Session", session_rows(session, status, story)),
        ("Cage", cage_rows(session, story)),
        ("Policy", policy_rows(session)),
        ("What it did", results),
    ):
        facts = [(label, clean(text)) for label, text in rows]
        if facts:
            yield Facts(title, facts)
    if not story.hosts:
        return
    hosts = [*host_rows(session, story)]
    shown = hosts[:MAX_HOST_ROWS]
    yield Table("Hosts", HOST_COLUMNS, shown, _more(len(hosts) - len(shown), "host"))
    if story.programs:
        yield _program_table(story.programs)
    yield Decisions("Timeline", [*_timeline(story)])


def _program_table(programs: Sequence[ProgramCount]) -> Table:
    rows = [
        (
            clean(one.name),
            f"{one.denied:,}",
            f"{one.failed:,}",
            f"{one.allowed:,}",
            str(one.processes or "-"),
            (one.sha256 or "-")[:SHOWN_DIGITS],
            clean(one.exe or "-"),
        )
        for one in programs[:MAX_PROGRAM_ROWS]
    ]
    more = _more(len(programs) - len(rows), "program")
    return Table("Programs", PROGRAM_COLUMNS, rows, more)


def _timeline(story: Story) -> Iterator[tuple[str, str, str] | str]:
    yield from _decisions(story.first)
    if story.between:
        between = counted(story.between, "decision")
        yield f"{between} between (`nono-trio audit tail -n N` has them)"
    yield from _decisions(story.last)


def _decisions(records: Iterable[LogRecord]) -> Iterator[tuple[str, str, str]]:
    for record in records:
        if isinstance(record.event, Network):
            yield decision_cells(record.event.event)


def _more(count: int, what: str) -> str:
    return f"... and {counted(count, what)} more (all with --json)" if count > 0 else ""
