"""Writes the results of a part of the benchmark into its page: tables and a plot (SVG).

Rules of this file: the page has two marks for each part, and only the text between is replaced.
Written are ratios and met aims; absolute figures depend on the machine, so only aims without a peer
show ours.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from bench_matrix import as_grouped_svg, as_matrices

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench_report import Row

_BAR, _LINE, _LABELS, _PLOT = 14, 24, 330, 420  # pixels: height of bar and line, widths
_TOP: Final = 28
PEERS: Final = "peers"
_MOST_PLOTTED: Final = 20  # a larger ratio would make all other bars too short to read
_STYLE: Final = (
    "text{font:13px sans-serif;fill:#555}.bar{fill:#4c78a8}.one{stroke:#888}"
    ".spread{stroke:#222}.aim{stroke:#d62728;stroke-width:2}"
)


def write_page(page: Path, part: str, rows: Sequence[Row]) -> None:
    """Write the rows that have a ratio or an aim; raises ValueError if the page has no marks."""
    shown = [row for row in rows if row.ratios or row.aim is not None]
    plotted = [row for row in shown if row.ratios and median(row.ratios) <= _MOST_PLOTTED]
    _replace(page, part, as_markdown(shown), as_svg(plotted))


def write_peers(page: Path, rows: Sequence[Row]) -> None:
    """Write the rows of several peers; raises ValueError if the page has no marks."""
    _replace(page, PEERS, as_matrices(rows), as_grouped_svg(rows))


def _replace(page: Path, part: str, tables: str, plot: str) -> None:
    file = page.with_name(f"{page.stem}-{part}.svg")
    replace_tables(page, part, f"{tables}\n\n![{part}]({file.name})")
    file.write_text(plot)


def replace_tables(page: Path, part: str, tables: str) -> None:
    """Replace the text between the marks of a part; raises ValueError without marks."""
    begin, end = f"<!-- {part}: written by scripts/bench -->\n", f"<!-- {part}: end -->"
    before, mark, rest = page.read_text().partition(begin)
    _, second, after = rest.partition(end)
    if not mark or not second:
        raise ValueError(f"{page} has no marks for {part}")
    page.write_text(f"{before}{begin}\n{tables}\n\n{end}{after}")


def as_markdown(rows: Sequence[Row]) -> str:
    """The table: a line for each row."""
    lines = ["| | ratio | smallest-largest | aim | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ratios = row.ratios
        figure = f"{median(ratios):.2f}" if ratios else f"{median(row.ours):.0f} (ours)"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}" if ratios else ""
        aim = row.bound
        verdict = {True: "met", False: "not met", None: ""}[row.met]
        name = f"{row.unit.partition(',')[2].strip()}: {row.name}".removeprefix(": ")
        lines.append(f"| {name} | {figure} | {spread} | {aim} | {verdict} |")
    return "\n".join(lines)


def as_svg(rows: Sequence[Row]) -> str:
    """The plot: a bar for each median, a line from the smallest ratio to the largest, the aim."""
    most = max([1.0, *(max(row.ratios) for row in rows)])
    scale = _PLOT / most
    height = _TOP + _LINE * len(rows) + 8
    one = _LABELS + scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABELS + _PLOT + 60}" height="{height}">'
        f"<style>{_STYLE}</style>",
        f'<line class="one" x1="{one:.0f}" x2="{one:.0f}" y1="20" y2="{height}"/>',
        f'<text x="{one:.0f}" y="14" text-anchor="middle">1 (the peer)</text>',
    ]
    for number, row in enumerate(rows):
        top = _TOP + number * _LINE
        middle, ratios = top + _BAR / 2, row.ratios
        label = escape(f"{row.name} ({row.unit.partition(',')[2].strip() or row.unit})")
        low, high = (_LABELS + scale * edge for edge in (min(ratios), max(ratios)))
        width = scale * median(ratios)
        parts += [
            f'<text x="{_LABELS - 8}" y="{top + 12}" text-anchor="end">{label}</text>',
            f'<rect class="bar" x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR}"/>',
            f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{high + 6:.1f}" y="{top + 12}">{median(ratios):.2f}</text>',
        ]
        if row.aim is not None:
            at = _LABELS + scale * row.aim
            parts.append(
                f'<line class="aim" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 3}" y2="{top + 17}"/>'
            )
    return "\n".join([*parts, "</svg>", ""])
