"""The index of a page of all sessions: totals, the ones that are not whole, and a row for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.audit.read.records import flows
from nono_trio.audit.read.status import counts_of
from nono_trio.audit.report.markup import Html, element, joined
from nono_trio.audit.report.tables import Heading, Row, badge, code, number_tiles, table
from nono_trio.audit.report.words import GOOD, VERDICTS, title, when
from nono_trio.audit.store import FLOWS
from nono_trio.core.log.shown_text import size_text
from nono_trio.errors import LogUnreadable

if TYPE_CHECKING:
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.audit.verify.verdict import Verdict, Verification

MAX_ROWS: Final = 1000
KINDS: Final[dict[Verdict, str]] = {
    "verified": "good", "open": "plain", "crashed": "warn", "unreadable": "warn",
}  # fmt: skip


@dataclass(frozen=True)
class IndexRow:
    """One session in the index; numbers are None where its log can't be read. `address` is that of
    its section, if the page has one."""

    session_id: str
    title: str
    started: str
    verdict: Verdict
    denied: int | None = None
    failed: int | None = None
    allowed: int | None = None
    bytes_moved: int = 0
    address: str | None = None


@dataclass
class Index:
    """Totals over all sessions, and rows for the first MAX_ROWS that were added (the newest)."""

    rows: list[IndexRow] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    faults: list[IndexRow] = field(default_factory=list)
    sessions: int = 0
    with_section: int = 0
    removed: int = 0
    denied: int = 0
    failed: int = 0
    allowed: int = 0
    bytes_moved: int = 0

    def add(self, row: IndexRow) -> None:
        """Add one session."""
        self.sessions += 1
        self.with_section += row.address is not None
        self.verdicts[row.verdict] += 1
        self.denied += row.denied or 0
        self.failed += row.failed or 0
        self.allowed += row.allowed or 0
        self.bytes_moved += row.bytes_moved
        if len(self.rows) < MAX_ROWS:
            self.rows.append(row)
        if row.verdict not in GOOD and len(self.faults) < MAX_ROWS:
            self.faults.append(row)


def index_row(stored: StoredSession, answer: Verification, address: str | None) -> IndexRow:
    """Return the row of one session, from its summary and its flows."""
    try:
        counts = counts_of(stored)
        moved = sum(one.bytes_up + one.bytes_down for one in flows(stored.directory / FLOWS))
    except LogUnreadable:
        counts, moved = None, 0
    return IndexRow(
        session_id=stored.session_id,
        title=title(stored),
        started=when(stored.started),
        verdict=answer.verdict,
        denied=counts.denied if counts else None,
        failed=counts.failed if counts else None,
        allowed=counts.allowed if counts else None,
        bytes_moved=moved,
        address=address,
    )


def missing_row(answer: Verification) -> IndexRow:
    """Return the row of a session that the ledger knows and the disk does not have, or of a ledger
    that is damaged itself."""
    name = answer.session_id or answer.path
    return IndexRow(name, "", "", answer.verdict)


def index_parts(index: Index) -> Html:
    """Return the first part of the page."""
    numbers = [
        ("Sessions", f"{index.sessions:,}", "plain"),
        ("Denied", f"{index.denied:,}", "bad" if index.denied else "plain"),
        ("Failed", f"{index.failed:,}", "warn" if index.failed else "plain"),
        ("Allowed", f"{index.allowed:,}", "plain"),
        ("Bytes moved", size_text(index.bytes_moved), "plain"),
    ]
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in index.verdicts.most_common())
    removed = f"; {index.removed:,} removed on purpose" if index.removed else ""
    return joined(
        [
            element("p", f"Verdicts: {verdicts or 'none'}{removed}.", class_="in-short"),
            number_tiles(numbers),
            _faults(index),
            _rows(index),
        ]
    )


def _faults(index: Index) -> Html:
    if not index.faults:
        return Html("")
    rows = [Row([_name(one), _verdict(one), VERDICTS[one.verdict]]) for one in index.faults]
    headings = [
        Heading("Session", kind="wide"),
        Heading("Verdict", kind="narrow"),
        Heading("What it means"),
    ]
    drawn = table("Sessions whose record is not whole", headings, rows)
    return element("section", element("h2", "Look at these first"), drawn)


def _rows(index: Index) -> Html:
    rows = [
        Row(
            [
                _name(one),
                code(one.title) if one.title else "",
                one.started,
                _verdict(one),
                *(_number(count) for count in (one.denied, one.failed, one.allowed)),
                size_text(one.bytes_moved),
            ]
        )
        for one in index.rows
    ]
    headings = [
        Heading("Session", kind="wide"),
        Heading("Command", kind="wide"),
        Heading("Started", kind="narrow"),
        Heading("Verdict", kind="narrow"),
        Heading("Denied", number=True),
        Heading("Failed", number=True),
        Heading("Allowed", number=True),
        Heading("Bytes", number=True),
    ]
    left_out = index.sessions - len(index.rows)
    sections = "Each has a section below."
    if index.with_section < index.sessions:
        sections = f"The newest {index.with_section:,} that can be read have a section below."
    drawn = table("Sessions, newest first", headings, rows, left_out, sections)
    return element("section", element("h2", "Sessions"), drawn)


def _name(row: IndexRow) -> Html:
    name = code(row.session_id)
    return element("a", name, href=row.address) if row.address else name


def _verdict(row: IndexRow) -> Html:
    return badge(row.verdict, KINDS.get(row.verdict, "bad"))


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"
