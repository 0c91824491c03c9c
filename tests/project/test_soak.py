"""The judgement of a soak: growth is found in noise, and noise alone is flat."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))

from soak_samples import FIGURES, as_svg, judge, write_csv

if TYPE_CHECKING:
    from pathlib import Path

    from soak_samples import Sample

COUNT = 200


def samples(growth: float) -> list[Sample]:
    """A warm-up, then noise with outliers; `growth` MB of resident memory over the whole."""
    noise = random.Random(7)
    made = []
    for number in range(COUNT):
        resident = min(number, 40) + 20 + growth * number / COUNT + noise.gauss(0, 0.3)
        outlier = 400.0 if number % 19 == 0 else 0.0
        descriptors = 60.0 + noise.randrange(30) + outlier
        loop = 20.0, 2 + noise.random(), 5 + noise.random()
        p50 = 5 + noise.expovariate(0.2)
        made.append((number * 2.0, resident, descriptors, 3.0, *loop, p50))
    return made


@pytest.mark.parametrize(("growth", "flat"), [(0.0, True), (-9.0, True), (9.0, False)])
def test_growth_is_told_from_noise(growth: float, flat: bool) -> None:
    judged = judge(samples(growth))
    assert [one.figure.name for one in judged] == [one.name for one in FIGURES]
    assert [one.is_flat for one in judged] == [flat, *[True] * (len(FIGURES) - 1)]
    assert ("NOT FLAT" in str(judged[0])) is not flat


def test_too_few_samples_are_no_judgement() -> None:
    with pytest.raises(ValueError, match="more samples, got 2"):
        judge(samples(0)[:2])


def test_all_samples_are_in_the_csv_and_the_plot(tmp_path: Path) -> None:
    made = samples(1.0)
    write_csv(tmp_path / "soak.csv", made)
    lines = (tmp_path / "soak.csv").read_text().splitlines()
    assert (
        lines[0] == "seconds,resident MB,descriptors,threads,tasks,turn p99 ms,turn most ms,p50 ms"
    )
    assert len(lines) == COUNT + 1
    plots = [one for one in ET.fromstring(as_svg(made)) if one.tag.endswith("polyline")]
    assert [len(one.attrib["points"].split()) for one in plots] == [COUNT] * len(FIGURES)
