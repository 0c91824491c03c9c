"""Tables, lists of facts, tiles of numbers and badges of the page.

Rules of this file: a table has a caption, its headings have a scope, and its roles are written out,
because the page lays the rows out as blocks where it is narrow; each cell then shows its column's
name. The line under a table counts the rows that the page lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.audit.report.markup import Html, element, joined
from nono_trio.core.log.shown_text import counted, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_CELL = 400  # characters of one text


@dataclass(frozen=True)
class Heading:
    """A column: its name; `number` is set to the right. `kind` is its width: `narrow` never breaks
    its lines, `wide` has room for a host or path."""

    name: str
    number: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """The cells of a row, each text or markup; `offset` is its time from the chart's start in ms,
    for rows that zooming hides."""

    cells: Sequence[str]
    offset: int | None = None


def cut(value: str) -> str:
    """Return a text that is at most MAX_CELL characters long, and says how long it was."""
    if isinstance(value, Html) or len(value) <= MAX_CELL:
        return value
    return f"{shorten(value, MAX_CELL)} ({len(value):,} characters)"


def code(value: str) -> Html:
    """Return a text of the log, kept apart from the text direction around it."""
    return element("code", cut(value))


def codes(values: Iterable[str]) -> Html:
    """Return several, each on a line of its own."""
    return joined((code(value) for value in values), Html("<br>"))


def table(
    caption: str,
    headings: Sequence[Heading],
    rows: Sequence[Row],
    left_out: int = 0,
    note: str = "",
) -> Html:
    """Return a table; `left_out` is the number of rows that the page lacks."""
    head = element(
        "tr",
        joined(
            element("th", one.name, scope="col", role="columnheader", class_=_kind(one))
            for one in headings
        ),
        role="row",
    )
    body = joined(_row(headings, row) for row in rows)
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", head, role="rowgroup"),
        element("tbody", body, role="rowgroup"),
        role="table",
    )
    notes = [note] if note else []
    if left_out:
        notes.append(
            f"{counted(left_out, 'row')} more {'is' if left_out == 1 else 'are'} not on this page."
        )
    return joined([drawn, *(element("p", one, class_="note") for one in notes)])


def _row(headings: Sequence[Heading], row: Row) -> Html:
    cells = joined(
        element(
            "th" if place == 0 else "td",
            element("div", cut(cell)),
            scope="row" if place == 0 else None,
            role="rowheader" if place == 0 else "cell",
            class_=_kind(heading),
            data_label=heading.name,
        )
        for place, (heading, cell) in enumerate(zip(headings, row.cells, strict=True))
    )
    return element("tr", cells, role="row", data_offset=row.offset)


def _kind(heading: Heading) -> str | None:
    return "number" if heading.number else heading.kind or None


def facts(rows: Iterable[tuple[str, str]]) -> Html:
    """Return names with their values; several values of one name are beneath each other."""
    grouped: dict[str, list[str]] = {}
    for name, value in rows:
        grouped.setdefault(name, []).append(value)
    return element(
        "dl",
        joined(
            element(
                "div",
                element("dt", name),
                joined(element("dd", cut(value)) for value in values),
            )
            for name, values in grouped.items()
        ),
    )


def number_tiles(numbers: Iterable[tuple[str, str, str]]) -> Html:
    """Return numbers side by side; each is given as its label, the number and a `badge`'s kind."""
    return element(
        "ul",
        joined(
            element("li", element("b", number), element("span", label), class_=kind)
            for label, number, kind in numbers
        ),
        class_="tiles",
    )


def badge(word: str, kind: str) -> Html:
    """Return a word in a box; `kind` is its colour: good, bad, warn or plain."""
    return element("span", word, class_=f"badge {kind}")
