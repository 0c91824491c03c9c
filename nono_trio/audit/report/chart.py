"""The timeline as a picture that is there without a script, and as data for the script that zooms.

Rules of this file: one lane for each outcome, each with its own scale and its name beside it, so
that no colour is needed to read it; the data are numbers only, so no text of a log reaches the
script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.audit.report.markup import Html, element, joined
from nono_trio.audit.report.tables import Heading, Row, table
from nono_trio.audit.report.timeline import LANES
from nono_trio.audit.report.words import clock, moment, span
from nono_trio.core.log.shown_text import counted

if TYPE_CHECKING:
    from nono_trio.audit.report.timeline import Lane, Timeline

COLUMNS: Final = 160  # drawn; the script draws as many
HEIGHT: Final = 40
LEAST_HEIGHT: Final = 4  # of a column that is not empty
STEPS: Final = 12  # rows of the table
NAMES: Final[dict[Lane, str]] = {
    "denied": "Denied",
    "failed": "Failed",
    "allowed": "Allowed",
    "files": "Files",
}


def chart(name: str, timeline: Timeline) -> Html:
    """Return the figure; `name` joins it with its data."""
    lanes = joined(_lane(lane, timeline) for lane in _used(timeline))
    return element(
        "figure",
        element("div", lanes, _axis(timeline), class_="lanes"),
        element("figcaption", _caption(timeline)),
        _steps(timeline),
        class_="chart",
        data_chart=name,
    )


def chart_data(name: str, timeline: Timeline) -> dict[str, object]:
    """Return the columns of a chart as numbers: [place, count] for each that is not empty."""
    return {
        "name": name,
        "begin": timeline.begin,
        "width": timeline.width,
        "count": timeline.count,
        "lanes": {
            lane: [[place, one] for place, one in enumerate(timeline.columns[lane]) if one]
            for lane in _used(timeline)
        },
    }


def _used(timeline: Timeline) -> list[Lane]:
    """The lanes that are drawn: the three numbers of a run always, files if there are any."""
    return [lane for lane in LANES if lane != "files" or timeline.total(lane)]


def _lane(lane: Lane, timeline: Timeline) -> Html:
    drawn = timeline.drawn(lane, COLUMNS)
    most = max(drawn, default=0)
    label = f"{NAMES[lane]} over time: {timeline.total(lane):,} in all"
    if most:
        together = timeline.together(COLUMNS) * timeline.width
        at = timeline.begin + drawn.index(most) * together
        label += f", most at {clock(at, with_day=False)} UTC: {most:,} in {span(together)}"
    picture = element(
        "svg",
        element("path", d=_path(drawn, most)),
        element("rect", x=0, y=0, width=0, height=HEIGHT, class_="selected"),
        viewBox=f"0 0 {COLUMNS} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    name = element("span", NAMES[lane], class_="lane-name")
    return element(
        "div",
        name,
        picture,
        element("span", f"max {most:,}", class_="lane-most"),
        class_=f"lane {lane}",
        data_lane=lane,
    )


def _path(drawn: list[int], most: int) -> str:
    """A column each, with a small gap behind it."""
    parts, unit = [], COLUMNS / max(1, len(drawn))
    for place, count in enumerate(drawn):
        if count:
            top = HEIGHT - max(LEAST_HEIGHT, round(count * (HEIGHT - 1) / most))
            begin, end = place * unit, (place + 0.86) * unit
            parts.append(f"M{begin:.2f} {HEIGHT}V{top}H{end:.2f}V{HEIGHT}Z")
    return "".join(parts)


def _axis(timeline: Timeline) -> Html:
    end = timeline.begin + max(timeline.count * timeline.width, 1)
    with_day = moment(timeline.begin).date() != moment(end).date()
    marks = [timeline.begin, (timeline.begin + end) // 2, end]
    return element(
        "div",
        joined(element("span", clock(mark, with_day=with_day)) for mark in marks),
        class_="axis",
    )


def _caption(timeline: Timeline) -> str:
    text = (
        "Attempts by outcome, and look-ups of files that were not granted. One that was allowed"
        " first and then denied or failed is in both lanes. Times are UTC. Each lane has its own"
        f" scale; one column is {span(timeline.together(COLUMNS) * timeline.width)}."
    )
    if timeline.width > 1:
        text += (
            f" The log is counted in steps of {span(timeline.width)}: zooming goes down to them."
        )
    if timeline.moved:
        text += (
            f" {counted(timeline.moved, 'time')} outside of the session's own"
            " are drawn at its start or end."
        )
    return text


def _steps(timeline: Timeline) -> Html:
    """The picture as a table."""
    lanes = _used(timeline)
    counts = {lane: timeline.drawn(lane, STEPS) for lane in lanes}
    step = timeline.together(STEPS) * timeline.width
    rows = [
        Row(
            [
                clock(timeline.begin + place * step, with_day=True),
                *(f"{counts[lane][place]:,}" for lane in lanes),
            ]
        )
        for place in range(len(counts["denied"]))
    ]
    drawn = table(
        f"Counts in steps of {span(step)}",
        [
            Heading("From (UTC)", kind="narrow"),
            *(Heading(NAMES[lane], number=True) for lane in lanes),
        ],
        rows,
    )
    return element("details", element("summary", "The timeline as a table"), drawn, class_="steps")
