"""Reports about sessions, and pages of them, without the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nono_trio.audit.report.page import PageParts
from nono_trio.audit.report.session_report import ONE_SESSION, report_session
from nono_trio.audit.verify.session import verify

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.report.session_report import SessionReport


def report_of(directory: Path, limits=ONE_SESSION) -> SessionReport:
    return report_session(directory, verify(directory), limits)


def page_of(*reports: SessionReport) -> str:
    root = reports[0].stored.directory.parent
    parts = PageParts(datetime(2026, 7, 2, tzinfo=UTC), "0.1.0", root, lambda command: command)
    for report in reports:
        parts.add(report, folded=False)
    return "".join(parts.page())
