"""Each fuzz target holds for its seeds and for some mutations; the engine finds what breaks one."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))

from fuzz_engine import Mutator, Target, run_once, shrunk
from fuzz_run import known_targets, own_loop

TARGETS = known_targets()
MUTATIONS = 40
MOST_SEEDS = 12
BOUND = 60.0


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(name)
    mutator = Mutator(rng, target.tokens)
    seeds = rng.sample([*target.seeds], min(MOST_SEEDS, len(target.seeds)))
    outcomes = {run_once(target, data) for data in seeds}
    outcomes |= {run_once(target, mutator.mutate(seeds)) for _ in range(MUTATIONS)}
    assert len(outcomes) > 1


def broken(data: bytes) -> str:
    if b"bug" in data:
        raise KeyError(data)
    return f"{data.count(b'b')} {data.count(b'u')} {data.count(b'bu')}"


def test_our_own_engine_finds_an_input_and_makes_it_small(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)  # this process goes on
    target = Target("broken", "", broken, [b"a text of some length"], [b"b", b"u", b"g"])
    count, bad = own_loop(target, tmp_path, BOUND, seed=3)
    assert bad is not None
    assert count > 1
    small, said = shrunk(target, bad, BOUND)
    assert small == b"bug"
    assert "KeyError" in said


def test_a_saved_input_runs_by_one_command(tmp_path) -> None:
    saved = tmp_path / "input"
    saved.write_bytes(b"\0/public/../admin")
    command = [sys.executable, str(ROOT / "scripts/fuzz_run.py"), "--target", "endpoint"]
    done = subprocess.run(
        [*command, str(saved)], capture_output=True, text=True, check=False, timeout=BOUND
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{saved}: ")
