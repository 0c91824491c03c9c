"""The benchmark writes its tables and plots into its page. The rest of the page stays."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))
from bench_page import write_page, write_peers
from bench_report import Row

MARKED = "before\n<!-- part: written by scripts/bench -->\nold\n<!-- part: end -->\nafter\n"


def rows() -> list[Row]:
    met, missed, alone = (
        Row("a < b", "kind, CPU", 0.5),
        Row("c", "kind, CPU", 0.5),
        Row("d", "MB", 9),
    )
    for ours in (1.0, 2.0, 3.0):
        met.add(ours, 5.0)
        missed.add(ours, 2.0)
        alone.add(ours, None)
    return [met, missed, alone, Row("no figure", "ms", ours=[1.0], peer=None)]


def test_only_the_text_between_the_marks_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(MARKED)
    write_page(page, "part", rows())
    write_page(page, "part", rows())
    text = page.read_text()
    assert text.startswith(MARKED.split("old")[0])
    assert text.endswith("<!-- part: end -->\nafter\n")
    assert "old" not in text
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == [
        "| CPU: a < b | 0.40 | 0.20-0.60 | <= 0.5 | met |",
        "| CPU: c | 1.00 | 0.50-1.50 | <= 0.5 | not met |",
        "| d | 2 (ours) |  | <= 9 | met |",
    ]


def test_the_plot_has_a_bar_for_each_ratio(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(MARKED)
    write_page(page, "part", rows())
    plot = ElementTree.parse(tmp_path / "page-part.svg").getroot()
    bars = [one for one in plot if one.get("class") == "bar"]
    assert [float(one.get("width", 0)) for one in bars] == [112.0, 280.0]  # 420 pixels are 1.5


def test_a_page_without_marks_is_left_alone(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no marks"):
        write_page(page, "part", rows())
    assert page.read_text() == "nothing"


def by_peer(peer: str, *, throughput: float, aim: float | None = None) -> list[Row]:
    cost = Row("one <load>", "CPU s per 1,000 requests", aim, peer_name=peer)
    half = Row("one <load>", "latency p50, ms", peer_name=peer)
    speed = Row("bulk", "throughput, MB/s", aim, peer_name=peer, at_least=True)
    for factor in (1, 2, 3):
        cost.add(2.0 * factor, 4.0)
        half.add(1.0, 4.0)
        speed.add(throughput, 1.0)
    return [cost, half, speed]


def test_several_peers_are_columns_and_each_aim_is_judged(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(MARKED.replace("part", "peers"))
    rows = [*by_peer("a", throughput=2.0, aim=1.3), *by_peer("b", throughput=0.5)]
    write_peers(page, [*rows[:4], rows[5]])
    assert [line for line in page.read_text().splitlines() if line.startswith("| ")] == [
        "| CPU | a | b |",
        "| --- | --- | --- |",
        "| one <load> | 1.00 (0.50-1.50) | 1.00 (0.50-1.50) |",
        "| latency | a | b |",
        "| --- | --- | --- |",
        "| one <load>, p50 | 0.25 (0.25-0.25) | - |",
        "| throughput | a | b |",
        "| --- | --- | --- |",
        "| bulk | 2.00 (2.00-2.00) | 0.50 (0.50-0.50) |",
        "| aims | by | ratio | aim | |",
        "| --- | --- | --- | --- | --- |",
        "| one <load> | a | 1.00 (0.50-1.50) | <= 1.3 | met |",
        "| bulk, throughput | a | 2.00 (2.00-2.00) | >= 1.3 | met |",
    ]
    plot = ElementTree.parse(tmp_path / "page-peers.svg").getroot()
    bars = [one for one in plot if one.get("class") == "bar"]
    assert len({one.get("fill") for one in bars}) == 2
    assert len(bars) == 2
