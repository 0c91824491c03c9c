"""The tables and the plot of several peers: a line for each load, a column or colour for each peer.

Every figure is a ratio, ours divided by the peer's in one round: the median of the rounds, with the
smallest and the largest.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_report import Row

NONE: Final = "-"  # a peer cannot do it
# Okabe and Ito's colours, which colour-blind people tell apart.
_COLOURS: Final = (
    "#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
)  # fmt: skip
_LANE, _GAP, _LABELS, _PLOT = 9, 10, 230, 460  # pixels: height of a bar, between loads; widths
_TOP: Final = 48
_STYLE: Final = "text{font:13px sans-serif;fill:#555}.one{stroke:#888}.spread{stroke:#222}"


def as_matrices(rows: Sequence[Row]) -> str:
    """A table for each kind of unit, then the aims."""
    tables = []
    for title, units in _titles(rows):
        peers = _peers(rows)
        lines = [f"| {title} | {' | '.join(peers)} |", "| --- |" + " --- |" * len(peers)]
        lines += [
            f"| {_name(name, unit)} | {' | '.join(_cell(rows, name, unit, one) for one in peers)} |"
            for name, unit in _lines(rows, units)
        ]
        tables.append("\n".join(lines))
    aims = ["| aims | by | ratio | aim | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        if row.aim is not None and row.ratios:
            verdict = "met" if row.met else "not met"
            name = f"{row.name}{', throughput' if row.at_least else ''}"
            aims.append(f"| {name} | {row.peer_name} | {_figure(row)} | {row.bound} | {verdict} |")
    return "\n\n".join([*tables, "\n".join(aims)])


def as_grouped_svg(rows: Sequence[Row]) -> str:
    """The plot of CPU: for each load a bar for each peer, a line for the spread."""
    shown = [row for row in rows if row.unit.startswith("CPU") and row.ratios]
    peers = _peers(rows)
    colours = dict(zip(peers, _COLOURS * 2, strict=False))
    most = max([1.0, *(max(row.ratios) for row in shown)])
    scale, one = _PLOT / most, _LABELS + _PLOT / most
    bars, top = [], _TOP
    lines = _lines(rows, [*{row.unit for row in shown}])
    for name in dict.fromkeys(name for name, _ in lines):
        group = [row for row in shown if row.name == name]
        middle = top + _LANE * len(group) / 2 + 4
        label = f'<text x="{_LABELS - 8}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>'
        bars.append(label)
        for row in group:
            bars += _bar(row, colours[row.peer_name or ""], top, scale)
            top += _LANE
        top += _GAP
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABELS + _PLOT + 20}" height="{top}">'
        f"<style>{_STYLE}</style>",
        *_legend(peers, colours),
        f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="42" y2="{top}"/>',
        f'<text x="{one:.1f}" y="38" text-anchor="middle">1 (the peer)</text>',
    ]
    return "\n".join([*head, *bars, "</svg>", ""])


def _bar(row: Row, colour: str, top: float, scale: float) -> list[str]:
    ratios, at = row.ratios, top + _LANE / 2 - 1
    low, high = (_LABELS + scale * edge for edge in (min(ratios), max(ratios)))
    return [
        f'<rect class="bar" fill="{colour}" x="{_LABELS}" y="{top}"'
        f' width="{scale * median(ratios):.1f}" height="{_LANE - 2}"/>',
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{at}" y2="{at}"/>',
    ]


def _legend(peers: Iterable[str], colours: dict[str, str]) -> list[str]:
    parts, left = [], 8
    for peer in peers:
        parts += [
            f'<rect fill="{colours[peer]}" x="{left}" y="6" width="10" height="10"/>',
            f'<text x="{left + 14}" y="15">{escape(peer)}</text>',
        ]
        left += 32 + 7 * len(peer)
    return parts


def _peers(rows: Iterable[Row]) -> list[str]:
    return [*dict.fromkeys(row.peer_name for row in rows if row.peer_name)]


def _titles(rows: Iterable[Row]) -> list[tuple[str, list[str]]]:
    """The first words of the units, and the units that begin with them."""
    units: dict[str, list[str]] = {}
    for unit in dict.fromkeys(row.unit for row in rows):
        units.setdefault(unit.split()[0].strip(","), []).append(unit)
    return [*units.items()]


def _lines(rows: Sequence[Row], units: Sequence[str]) -> list[tuple[str, str]]:
    """The loads of these units, each once, in the order of the peer that can do most of them."""
    most = max(_peers(rows), key=lambda peer: sum(row.peer_name == peer for row in rows))
    ordered = [*dict.fromkeys(row.name for row in rows if row.peer_name == most)]
    found = dict.fromkeys((row.name, row.unit) for row in rows if row.unit in units)
    return sorted(found, key=lambda line: (ordered.index(line[0]), line[1]))


def _name(name: str, unit: str) -> str:
    """The load, and which percentile if the unit names one."""
    part = unit.partition(",")[0].split()[-1]
    return f"{name}, {part}" if part in ("p50", "p99") else name


def _cell(rows: Iterable[Row], name: str, unit: str, peer: str) -> str:
    for row in rows:
        if (row.name, row.unit, row.peer_name) == (name, unit, peer) and row.ratios:
            return _figure(row)
    return NONE


def _figure(row: Row) -> str:
    ratios = row.ratios
    spread = "" if len(ratios) == 1 else f" ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"{median(ratios):.2f}{spread}"
