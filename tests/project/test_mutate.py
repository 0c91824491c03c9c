"""scripts/mutate finds what no test notices, and takes nothing else for it."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))

import mutate_run
from mutate_operators import mutants
from mutate_run import all_mutants, mutate, parse_options, sample
from mutate_tests import PROCESSES, ROWS, row

if TYPE_CHECKING:
    from pathlib import Path

PLANTED = """\
LIMIT = 3


def is_open(count):
    return count < LIMIT


def is_long(text):
    return len(text) > 10


def emptied(items):
    while items:
        items.pop()


def unused(count):
    return count
"""
TESTS = """\
from nono_trio.planted import LIMIT, emptied, is_long, is_open


def test_is_open():
    assert (is_open(LIMIT), is_open(LIMIT - 1)) == (False, True)


def test_is_long():
    assert (is_long(""), is_long("a" * 100)) == (False, True)


def test_emptied():
    emptied([1])


def test_broken():
    assert is_long(LIMIT)
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one module and its tests, one of which fails without a mutant."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("nono_trio", "tests"):
        (tmp_path / "checkout" / folder).mkdir(parents=True)
    (tmp_path / "checkout/nono_trio/__init__.py").touch()
    (tmp_path / "checkout/nono_trio/planted.py").write_text(PLANTED)
    (tmp_path / "checkout/tests/test_planted.py").write_text(TESTS)
    return tmp_path / "checkout"


def test_killed_survived_unreached_and_endless(planted, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mutate_run, "START_CPU", 2.0)
    lines = [f"nono_trio/planted.py:{number}" for number in (5, 9, 14, 18)]
    options = parse_options(
        ["--count=0", "--seed=1", "--jobs=1", "--verbose", *(f"--only={one}" for one in lines)]
    )
    assert mutate(planted, options, {"nono_trio": ("tests",)}, {}) == 3
    said = capsys.readouterr().out
    killers = dict(re.findall(r"^killed nono_trio/planted.py:(.*?): (.*)", said, re.MULTILINE))
    assert killers == {
        "5 another comparison": "tests/test_planted.py::test_is_open",
        "5 return None": "tests/test_planted.py::test_is_open",
        "9 return None": "tests/test_planted.py::test_is_long",
        "14 a statement less": "limit (signal 24)",
    }
    left = re.findall(r"^([A-Z]+) nono_trio/planted.py:(.*) \(", said, re.MULTILINE)
    assert sorted(left) == [
        ("SURVIVED", "9 another comparison"),
        ("SURVIVED", "9 one more"),
        ("UNREACHED", "18 return None"),
    ]
    assert "+    return (len(text) >= 10)\n" in said
    assert "without a mutant: tests/test_planted.py::test_broken\n" in said
    assert "all: 4 killed (1 by the limit), 2 survived, 1 unreached\n" in said
    assert (planted / "nono_trio/planted.py").read_text() == PLANTED


def test_a_sample_of_the_project_is_killed(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module, tests = "nono_trio/core/net/sockaddr.py", "tests/core/net/test_sockaddr.py"
    options = parse_options([f"--only={module}", "--count=4", "--seed=16", "--jobs=1"])
    assert mutate(ROOT, options, {module: (tests,)}, {}) == 0
    assert "all: 4 killed (0 by the limit)" in capsys.readouterr().out


def test_the_same_seed_chooses_the_same_mutants_and_each_is_another_program(planted) -> None:
    found, sources = all_mutants(planted, [], {"nono_trio/planted.py": ("tests",)})
    chosen = sample(sources, found, 5, seed=3)
    assert chosen == sample(sources, found, 5, seed=3) != sample(sources, found, 5, seed=4)
    assert len({one.applied(PLANTED.encode()) for one in chosen}) == 5


SOURCE = """\
RESERVED = frozenset({1, 2})


@decorated(limit=1)
def act(record: int | None, *, strict=True):
    '''No mutant of a text.'''
    write(record, sync=strict)
    answer(record)
    try:
        if not record and strict:
            raise ValueError(f"{record + 1}")
    except (ValueError, OSError):
        return [one for one in record if one]
    return 1 < record <= 2
"""


def added(diff: str) -> str:
    return " ".join(line[1:].strip() for line in diff.splitlines() if line.startswith("+"))


def test_the_operators() -> None:
    changed = {
        (one.line, one.operator, added(one.diff(SOURCE.encode())))
        for one in mutants("act.py", SOURCE.encode())
        if one.is_one(SOURCE.encode())
    }
    assert {line for line, _, _ in changed} == {1, 5, 7, 8, 10, 11, 12, 13, 14}
    assert changed >= {
        (1, "an element less", "RESERVED = frozenset({1})"),
        (5, "the other truth", "def act(record: int | None, *, strict=False):"),
        (7, "an argument less", "write(record)"),
        (7, "two statements swapped", "answer(record)"),
        (8, "a statement less", "pass"),
        (10, "an operand less", "if ((strict)):"),
        (10, "without not", "if record and strict:"),
        (10, "condition True", "if True:"),
        (12, "an exception less", "except (OSError):"),
        (13, "condition False", "return [one for one in record if False]"),
        (13, "return None", "return None"),
        (14, "another comparison", "return (1 <= record <= 2)"),
        (14, "another comparison", "return (1 < record < 2)"),
        (14, "one more", "return 1 < record <= (3)"),
    }


def test_the_table_names_tests_that_exist_for_code_that_exists() -> None:
    for table in (ROWS, PROCESSES):
        assert all((ROOT / path).exists() for path in table)
        assert [one for tests in table.values() for one in tests if not (ROOT / one).exists()] == []
    for part in ("core", "proxy/access", "audit/verify", "audit/write"):
        assert all(
            row(ROWS, str(one.relative_to(ROOT)))
            for one in (ROOT / "nono_trio" / part).rglob("*.py")
            if one.name != "__init__.py"
        )
