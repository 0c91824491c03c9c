"""A short torture with a fixed seed, and that it finds what it looks for."""

from __future__ import annotations

import random
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))

import torture_scenarios
from torture_run import torture, tortured
from torture_scenarios import World
from torture_session import Origin, Tortured

if TYPE_CHECKING:
    from pathlib import Path

SEED = 16


def test_a_few_rounds_find_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torture_scenarios, "KILLS", 1)
    assert torture(["kill", "begin"], SEED, range(1), tmp_path) == 0
    said = capsys.readouterr().out
    assert "kill 0: 2 sessions, 0 faults" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_in_the_log_and_what_is_left_over_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault happened, and answers that were never recorded are found, as is a leftover."""

    def planted(world: World):
        made = world.session(
            fault=torture_scenarios.Fault("", call="write", most=100), requests=3, threads=1
        )
        made.ended()
        for answer in ("deny other.test", "allow /path", "tunnel 9", "tunnel 9"):
            with (made.directory / "out").open("a") as file:
                file.write(f"{answer}\n")
        (made.directory / "temporary" / "left").touch()
        yield made
        assert made.has_fired

    monkeypatch.setitem(torture_scenarios.SCENARIOS, "planted", planted)
    with Origin() as origin:
        threading.Thread(target=origin.serve_forever, args=(0.05,), daemon=True).start()
        count, found = tortured("planted", World(tmp_path, origin, random.Random(SEED)))
        origin.shutdown()
    texts = {fault for _, fault in found}
    assert count == 1
    assert texts == {
        f"{start}{when}"
        for start in (
            "acknowledged and not in the log: allow /path",
            "acknowledged and not in the log: deny other.test",
            "acknowledged and not in the log: tunnel",
        )
        for when in ("", " (before recovery)")
    } | {"left over: left in TMPDIR"}
    assert all(isinstance(made, Tortured) for made, _ in found)
