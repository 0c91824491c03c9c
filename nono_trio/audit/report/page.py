"""The HTML page: one file that loads nothing, whose policy forbids it to.

Rules of this file: style and script are our own files beside this one, whole in the page, and
allowed by their hashes; there is no style or handler in an attribute, no address outside of the
page, and no text of a log in the script's data.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.audit.report.chart import chart_data
from nono_trio.audit.report.index import index_parts
from nono_trio.audit.report.markup import Html, element, json_data, raw_element
from nono_trio.audit.report.sections import VERDICT_KINDS, Sections, session_links
from nono_trio.audit.report.tables import badge, code
from nono_trio.audit.report.words import title, when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from nono_trio.audit.report.index import Index
    from nono_trio.audit.report.session_report import SessionReport

_HERE: Final = Path(__file__).resolve().parent
_STYLE: Final = "page.css"
_SCRIPT: Final = "page.js"


@dataclass
class PageParts:
    """The sessions of a page, turned into markup one by one so that one is in memory at a time;
    `root` is the directory of the sessions, `command` returns a command as it works where the
    report is made."""

    made: datetime
    version: str
    root: Path
    command: Callable[[str], str]
    _bodies: list[Html] = field(default_factory=list)
    _charts: list[dict[str, object]] = field(default_factory=list)
    _links: list[tuple[str, str]] = field(default_factory=list)
    _title: str = ""

    def add(self, report: SessionReport, *, folded: bool) -> str:
        """Add a session; `folded` is that of a page of many. Returns its address in the page."""
        name = f"s{len(self._bodies) + 1}"
        self._title = title(report.stored)
        sections = Sections(report, name, 3 if folded else 2, self.root, self.command)
        self._charts.append(chart_data(name, report.timeline))
        if not folded:
            self._links = [*sections.anchors()]
            self._bodies.append(sections.all())
            return f"#{name}"
        heading = element(
            "summary",
            element("h2", code(title(report.stored))),
            badge(report.answer.verdict, VERDICT_KINDS.get(report.answer.verdict, "plain")),
            element("span", when(report.started), class_="when"),
        )
        self._bodies.append(element("details", heading, sections.all(), class_="session", id=name))
        return f"#{name}"

    def page(self, index: Index | None = None) -> Iterator[str]:
        """Yield the page; `index` is that of a page of all sessions."""
        style, script = source(_STYLE), source(_SCRIPT)
        heading = "All sessions" if index is not None else self._title
        yield '<!doctype html>\n<html lang="en">\n'
        yield element("head", *_head(f"nono-trio: {heading}", style, script))
        yield "\n<body>\n"
        yield element(
            "header",
            element("p", "nono-trio report", class_="kind"),
            element("h1", heading if index is not None else code(heading)),
            element("p", f"Made {when(self.made)} by nono-trio {self.version}.", class_="when"),
            session_links(self._links) if self._links else Html(""),
        )
        yield "\n<main>\n"
        if index is not None:
            yield index_parts(index)
        for body in self._bodies:
            yield body
            yield "\n"
        yield "</main>\n"
        yield element(
            "footer",
            element(
                "p",
                "This page is one file. It loads nothing and links to nothing outside of it. It"
                " shows the log as it was at the time above and proves nothing: the section Proof"
                " says how to check the log.",
            ),
        )
        data = json_data({"schema": 1, "charts": self._charts})
        yield raw_element("script", data, type="application/json", id="charts")
        yield raw_element("script", script)
        yield "\n</body>\n</html>\n"


def source(name: str) -> str:
    """Return our own style or script."""
    return (_HERE / name).read_text("utf-8")


def content_policy(style: str, script: str) -> str:
    """Return the policy of the page: this style, this script, an icon that is no file, and nothing
    beside them."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _head(heading: str, style: str, script: str) -> Iterator[Html]:
    yield element("meta", charset="utf-8")
    policy = content_policy(style, script)
    yield element("meta", http_equiv="Content-Security-Policy", content=policy)
    yield element("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield element("meta", name="color-scheme", content="light dark")
    yield element("meta", name="referrer", content="no-referrer")
    yield element("title", heading)
    yield element("link", rel="icon", href="data:,")
    yield raw_element("style", style)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
