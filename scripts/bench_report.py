"""The results of the benchmark: rows, medians, ratios, and met aims.

A ratio is our figure divided by theirs in one round, both measured within seconds of each other.
The median over the rounds counts. The smallest and the largest are shown too, because a figure
without its spread says little. Absolute figures (CPU seconds, MB) depend on the machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCHEMA = 2
_HEAD = ("", "nono-trio", "peer", "ratio", "min-max", "speed", "aim", "")
_WIDTHS = (34, 11, 11, 7, 13, 7, 9, 7)


@dataclass
class Row:
    """One line of the table: a figure of ours and the peer's (None: it can't do that), by round.

    Smaller is better, except for `speeds`: our throughput divided by theirs. `aim` bounds the
    ratio, or our own figure if there is no peer: from above, or from below if `at_least`.
    """

    name: str
    unit: str
    aim: float | None = None
    ours: list[float] = field(default_factory=list)
    peer: list[float] | None = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    note: str | None = None
    """A figure beside the row, for people."""
    peer_name: str | None = None
    at_least: bool = False

    def add(self, ours: float, peer: float | None) -> None:
        """Add the figures of one round."""
        self.ours.append(ours)
        if peer is None:
            self.peer = None
        elif self.peer is not None:
            self.peer.append(peer)

    @property
    def ratios(self) -> list[float]:
        """Our figure divided by theirs, one for each round."""
        return [ours / peer for ours, peer in zip(self.ours, self.peer or (), strict=False)]

    @property
    def judged(self) -> float:
        """The figure that the aim bounds."""
        return median(self.ratios or self.ours)

    @property
    def met(self) -> bool | None:
        """Return true if the aim was met; None without an aim."""
        if self.aim is None:
            return None
        return self.judged >= self.aim if self.at_least else self.judged <= self.aim

    @property
    def bound(self) -> str:
        """The aim in words; empty without one."""
        return "" if self.aim is None else f"{'>=' if self.at_least else '<='} {self.aim:g}"

    def as_json(self) -> dict[str, Any]:
        """The row for --json; a figure that the peer does not have is null."""
        ratios = self.ratios
        return {
            "name": self.name,
            "unit": self.unit,
            "peer_name": self.peer_name,
            "ours": median(self.ours),
            "peer": median(self.peer) if self.peer else None,
            "ratio": median(ratios) if ratios else None,
            "ratio_min": min(ratios, default=None),
            "ratio_max": max(ratios, default=None),
            "speed": median(self.speeds) if self.speeds else None,
            "rounds": len(self.ours),
            "aim": self.aim,
            "at_least": self.at_least,
            "met": self.met,
        }


def as_json(rows: Iterable[Row], *, quick: bool) -> str:
    """One JSON object."""
    return json.dumps({"schema": SCHEMA, "quick": quick, "rows": [row.as_json() for row in rows]})


def as_table(rows: Sequence[Row]) -> str:
    """The table, one section a peer and unit, in the order of the rows."""
    lines = [_line(_HEAD)]
    title = None
    for row in rows:
        wanted = row.unit if row.peer_name is None else f"by {row.peer_name}: {row.unit}"
        if wanted != title:
            title = wanted
            lines.append(title)
        lines.append(_line(_cells(row)))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratios = row.ratios
    verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
    return (
        f"  {row.name}",
        _figure(median(row.ours)),
        _figure(median(row.peer)) if row.peer else row.note or "n/a",
        f"{median(ratios):.2f}" if ratios else "n/a",
        f"{min(ratios):.2f}-{max(ratios):.2f}" if ratios else "",
        f"{median(row.speeds):.2f}" if row.speeds else "",
        row.bound,
        verdict,
    )


def _line(cells: Sequence[str]) -> str:
    first, *others = cells
    columns = [first.ljust(_WIDTHS[0])]
    columns += [cell.rjust(width) for cell, width in zip(others, _WIDTHS[1:], strict=True)]
    return " ".join(columns).rstrip()


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.3f}"
