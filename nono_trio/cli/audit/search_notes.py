"""Notes of `audit search` and `audit hosts` on stderr, about the sessions that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.cli.live import say
from nono_trio.cli.text import clean, counted

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.search.searched_sessions import Noted, SearchReport

UNREADABLE = 2


def note_missing(report: SearchReport, chosen: object) -> None:
    """Note the sessions of a URL that are gone; those of a directory are noted by the search."""
    from nono_trio.audit.remote import SessionsAt

    if isinstance(chosen, SessionsAt):
        for session_id in chosen.missing:
            report.missing.add(session_id)


def tell_report(report: SearchReport, root: Path | str, found: int) -> int:
    """Print the notes, and that nothing was found; return the exit code."""
    if not found:
        say(_nothing(report, root))
    for noted, what in (
        (report.tampered, "tampered: `nono-trio audit verify --all` says where"),
        (report.missing, "gone, and the ledger knows: `nono-trio audit verify --all`"),
        (report.lost, "without some of their records, which were lost"),
        (report.without_programs, "without the programs of some records"),
    ):
        if noted.count:
            say(f"{_sessions(noted)} {_is(noted)} {what}")
    if report.unreadable.count:
        noted = report.unreadable
        say(f"warning: {_sessions(noted)} can't be read: `nono-trio audit verify --all` says why")
        return UNREADABLE
    return 0


def _nothing(report: SearchReport, root: Path | str) -> str:
    if not report.searched and not report.skipped:
        return f"no session in {root}"
    outside = f"; {report.skipped:,} more of another time" if report.skipped else ""
    return f"nothing found in {counted(report.searched, 'session')}{outside}"


def _is(noted: Noted) -> str:
    return "is" if noted.count == 1 else "are"


def _sessions(noted: Noted) -> str:
    more = noted.count - len(noted.named)
    named = ", ".join(clean(one) for one in noted.named)
    return f"{counted(noted.count, 'session')} ({named}{f' and {more:,} more' if more else ''})"
