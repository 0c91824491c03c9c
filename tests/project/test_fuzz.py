"""Each fuzz target holds for its seeds and for some mutations; the engine finds what breaks one."""

from __future__ import annotations

import random
import sys

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))

from fuzz_engine import Mutator, Target, run_once, shrunk
from fuzz_run import known_targets, main, own_loop

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


@pytest.mark.parametrize(("text", "said"), [(b"\0/public/../admin", "False"), (b"\0/../x", "root")])
def test_a_saved_input_runs_by_one_command(tmp_path, monkeypatch, capsys, text, said) -> None:
    saved = tmp_path / "input"
    saved.write_bytes(text)
    monkeypatch.setattr("sys.argv", ["fuzz", "--target", "endpoint", str(saved)])
    assert main() == 0
    assert capsys.readouterr().out.startswith(f"{saved}: ")
    assert said in run_once(TARGETS["endpoint"], text)


def test_a_violation_is_an_exit_code_and_a_command(tmp_path, monkeypatch, capsys) -> None:
    target = Target("broken", "", broken, [b"a bug"])
    monkeypatch.setattr("fuzz_run.known_targets", lambda: {"broken": target})
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)  # this process goes on
    monkeypatch.setattr("sys.argv", ["fuzz", "--engine", "own", "--corpus", str(tmp_path)])
    assert main() == 1
    said = capsys.readouterr().out
    assert "VIOLATION, 3 bytes: b'bug'" in said
    command = said.partition("reproduce: scripts/fuzz ")[2].split("\n")[0]
    monkeypatch.setattr("sys.argv", ["fuzz", *command.split()])
    assert main() == 1
