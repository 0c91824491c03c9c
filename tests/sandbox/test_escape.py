"""A hostile program in the cage: every outcome as docs/escape-attempts.md says, in both modes.

As root, the same is run once more as an ordinary user, for whom the cage is built another way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from checkout import ROOT, SUPPORT
from harness import PROBES, as_user, guarded

TABLE = ROOT / "docs" / "escape-attempts.md"
CANARIES = SUPPORT / "canaries.py"
PROBE = PROBES / "escape.py"
RUN_SECONDS = 90  # several times what it takes; a cage that hangs is a finding
LEAST_ATTEMPTS = 60
INTERCEPTED = "intercepted host"  # in the names of attempts that need one
USERS = ["root", "user"] if os.geteuid() == 0 else ["user"]


@dataclass(frozen=True)
class Row:
    """A line of the tables; `pattern` is an attempt's name, or the beginning of several."""

    pattern: str
    outcomes: dict[str, str]
    bare: bool

    def fits(self, attempt: str) -> bool:
        if self.pattern.endswith("*"):
            return attempt.startswith(self.pattern[:-1])
        return attempt == self.pattern

    def expected(self, isolation: str, user: str) -> str:
        outcome = self.outcomes[isolation]
        if outcome == "open (user)":
            return "open" if user == "user" else "stopped"
        return outcome


@cache
def table() -> tuple[Row, ...]:
    rows = []
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("attempt", "---"):
            continue
        attempt, namespace, landlock, bare, stopped_by = cells
        assert {namespace, landlock} <= {"stopped", "open", "open (user)"}, line
        assert bare in ("", "open"), line
        assert stopped_by, line
        rows.append(Row(attempt, {"namespace": namespace, "landlock": landlock}, bare == "open"))
    return tuple(rows)


def row_of(attempt: str) -> Row:
    """The row that fits best: the very name, else the longest beginning."""
    fitting = [row for row in table() if row.fits(attempt)]
    assert fitting, f"not in {TABLE.name}: {attempt}"
    return max(fitting, key=lambda row: (row.pattern == attempt, len(row.pattern)))


@cache
def attempts() -> tuple[str, ...]:
    """The names that the probe knows."""
    listing = "import escape, json; print(json.dumps(list(escape.ATTEMPTS)))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", listing],
        cwd=PROBES,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(json.loads(done.stdout))


def run(isolation: str, user: str, *names: str) -> dict[str, Any]:
    """Run canaries and probe as `user`; what was seen, with the outcome of each attempt."""
    prefix, variables = as_user(user, PROBE, counted=True)
    python = prefix[-1]
    command = [*prefix, "-B", str(CANARIES), isolation, python, "-B", str(PROBE)]
    done = subprocess.run(
        [*command, *(("--", *names) if names else ())],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    noticed = {*seen["arrived"], *seen["left"]}
    seen["outcomes"] = {
        each["attempt"]: "open" if tag(each["attempt"]) in noticed else each["outcome"]
        for each in seen["attempts"]
    }
    seen["details"] = {each["attempt"]: each["detail"] for each in seen["attempts"]}
    return seen


def tag(attempt: str) -> str:
    """As in tests/support/probes/escape_base.py."""
    return f"tag-{zlib.crc32(attempt.encode()):08x}"


def test_the_table_and_the_attempts_are_the_same() -> None:
    used = {row_of(attempt).pattern for attempt in attempts()}
    assert [row.pattern for row in table() if row.pattern not in used] == []
    assert len({row.pattern for row in table()}) == len(table())
    assert len(attempts()) >= LEAST_ATTEMPTS


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("isolation", ["namespace", pytest.param("landlock", marks=guarded)])
def test_every_attempt_ends_as_the_table_says(isolation: str, user: str) -> None:
    names = [name for name in attempts() if INTERCEPTED not in name]
    seen = run(isolation, user, *names)
    check_outcomes(seen, names, isolation, user)
    # By the other side's own look: no file changed, no process touched, the log whole.
    assert seen["changed"] == []
    assert seen["victim"] == []
    assert seen["left"] == []


def test_no_request_gets_around_the_rules_of_an_intercepted_host() -> None:
    """In one session of its own: the proxy decides, and it is the same in both isolations."""
    names = [name for name in attempts() if INTERCEPTED in name]
    seen = run("namespace", USERS[-1], *names)
    check_outcomes(seen, names, "namespace", USERS[-1])
    must_be_recorded = [name for name in names if name.startswith(f"an {INTERCEPTED}: ")]
    assert [name for name in must_be_recorded if not seen["refusals"].get(tag(name))] == []


def check_outcomes(seen: dict[str, Any], names: list[str], isolation: str, user: str) -> None:
    """Every attempt was made and ended as its row says, and the log is whole."""
    assert seen["code"] == 0, seen["errors"]
    assert seen["outcomes"].keys() == set(names), seen["errors"]
    wrong = {
        name: f"{outcome}: {seen['details'][name]}"
        for name, outcome in seen["outcomes"].items()
        if outcome != row_of(name).expected(isolation, user)
    }
    assert not wrong
    broken = [name for name, detail in seen["details"].items() if "itself failed" in detail]
    assert not broken
    assert seen["verdict"] == "verified"


def test_without_a_cage_the_attempts_do_get_something() -> None:
    """Or "stopped" would say nothing about the cage."""
    names = [name for name in attempts() if row_of(name).bare]
    seen = run("bare", "user", *names)
    assert seen["outcomes"].keys() == set(names)
    got_nothing = {
        name: seen["details"][name]
        for name, outcome in seen["outcomes"].items()
        if outcome != "open"
    }
    assert not got_nothing
