"""The samples of a soak: the figures, whether each stays flat, the CSV and the plot (SVG).

Flat is judged by the Theil-Sen slope: the median of the slopes of all pairs of samples, which a few
outliers do not move. The first part (WARM_UP) is left out: caches and pools fill then. A figure is
flat if the slope, over the whole length that is judged, makes less than its tolerance.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WARM_UP: Final = 0.25  # of the samples
MOST_JUDGED: Final = 400  # samples; all pairs of more take long
_WIDTH, _HEIGHT, _LEFT, _GAP = 640, 90, 150, 34


@dataclass(frozen=True)
class Figure:
    """One column. `share` and `least` make the tolerance: that share of the median, `least` at
    least."""

    name: str
    unit: str
    share: float
    least: float


FIGURES: Final = (
    Figure("resident", "MB", 0.03, 0.5),
    Figure("descriptors", "", 0.0, 4.0),
    Figure("threads", "", 0.0, 1.5),
    Figure("tasks", "", 0.0, 4.0),
    Figure("turn p99", "ms", 0.5, 2.0),
    Figure("turn most", "ms", 0.5, 10.0),
    Figure("p50", "ms", 0.5, 2.0),
)
Sample = tuple[float, ...]  # seconds since the start, then a value for each figure


@dataclass(frozen=True)
class Judged:
    """A figure's median, and its growth over the judged seconds by the slope."""

    figure: Figure
    middle: float
    growth: float
    seconds: float

    @property
    def is_flat(self) -> bool:
        """Return true if it grew less than its tolerance. To shrink is flat too."""
        return self.growth < max(self.figure.share * abs(self.middle), self.figure.least)

    def __str__(self) -> str:
        """One line for people."""
        word = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{self.figure.name}: median {self.middle:.1f} {self.figure.unit}".rstrip()
            + f", {self.growth:+.2f} in {self.seconds:.0f} s by the slope: {word}"
        )


def judge(samples: Sequence[Sample]) -> list[Judged]:
    """Judge each figure after the warm-up; raises ValueError for too few samples."""
    judged = samples[int(len(samples) * WARM_UP) :]
    judged = judged[:: len(judged) // MOST_JUDGED + 1]
    if len(judged) < 3:
        raise ValueError(f"a slope needs more samples, got {len(samples)}")
    seconds = judged[-1][0] - judged[0][0]
    return [
        Judged(figure, median(one[column] for one in judged), slope(judged, column) * seconds,
               seconds)
        for column, figure in enumerate(FIGURES, 1)
    ]  # fmt: skip


def slope(samples: Sequence[Sample], column: int) -> float:
    """The Theil-Sen slope of a column, a second."""
    return median(
        (late[column] - early[column]) / (late[0] - early[0])
        for early, late in itertools.combinations(samples, 2)
        if late[0] > early[0]
    )


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    """One line a sample."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *(f"{one.name} {one.unit}".rstrip() for one in FIGURES)])
        writer.writerows([f"{value:.3f}" for value in one] for one in samples)


def as_svg(samples: Sequence[Sample]) -> str:
    """One plot below the other, each from zero to its largest value."""
    end = max(samples[-1][0], 1.0)
    height = len(FIGURES) * (_HEIGHT + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}">'
        "<style>text{font:13px sans-serif;fill:#555}polyline{fill:none;stroke:#4c78a8}"
        "line{stroke:#bbb}</style>"
    ]
    for column, figure in enumerate(FIGURES, 1):
        top = (column - 1) * (_HEIGHT + _GAP) + _GAP
        bottom = top + _HEIGHT
        most = max(one[column] for one in samples) or 1.0
        points = " ".join(
            f"{_LEFT + one[0] / end * _WIDTH:.1f},{bottom - one[column] / most * _HEIGHT:.1f}"
            for one in samples
        )
        label = escape(f"{figure.name} {figure.unit}".strip())
        parts += [
            f'<text x="8" y="{top + _HEIGHT / 2:.0f}">{label}</text>',
            f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.4g}</text>',
            f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
            f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{bottom}" y2="{bottom}"/>',
            f'<polyline points="{points}"/>',
        ]
    minutes = f"{end / 60:.1f} minutes"
    parts.append(f'<text x="{_LEFT + _WIDTH}" y="{height - 8}" text-anchor="end">{minutes}</text>')
    return "\n".join([*parts, "</svg>", ""])
