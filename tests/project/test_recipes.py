"""docs/recipes.md: each recipe runs on real sessions, and finds what is in them."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess

import duckdb
import pytest
import sealed_session as made
from checkout import ROOT, TESTS

PAGE = (ROOT / "docs" / "recipes.md").read_text()
BLOCKS = re.findall(r"\n\n([^\n]+):\n\n```(sql|sh)\n(.*?)```", PAGE, re.S)
[VIEWS] = re.findall(r"```sql\n(CREATE.*?)```", PAGE, re.S)
GOLDEN, BUILT, KILLED = "9a6b8d126bc7940a", "0123456789abcdef", "00000000deadbeef"


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A real session, one of a fixed time with hostile names, and one that ends in half a line."""
    directory = tmp_path_factory.mktemp("state")
    hostile = "\x1b[2J\u202e.test"
    made.build(
        directory / "audit",
        BUILT,
        [*made.SMALL[:-1], made.network(3, "deny", hostile), made.SMALL[-1]],
        flows=[made.flow(3)],
    )
    killed = made.unsealed(directory / "audit", KILLED)
    with (killed / "audit-events.ndjson").open("ab") as log:
        log.write(b'{"sequence":99,"event":{"type":"netw')
    shutil.copytree(TESTS / "data" / "golden" / GOLDEN, directory / "audit" / GOLDEN)
    return directory


def sql(state, monkeypatch, title):
    monkeypatch.chdir(state)
    with duckdb.connect() as database:
        database.execute(VIEWS)
        [text] = [block for name, kind, block in BLOCKS if (name, kind) == (title, "sql")]
        return database.execute(text).fetchall()


def shell(state, title):
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    [text] = [block for name, kind, block in BLOCKS if (name, kind) == (title, "sh")]
    done = subprocess.run(
        ["sh", "-c", text], cwd=state, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_denied_by_host(state, monkeypatch):
    rows = {host: (count, sessions) for host, count, sessions, _ in
            sql(state, monkeypatch, "Denied, by host")}  # fmt: skip
    assert rows == {"evil.test": (2, 2), "evil.example.com": (1, 1), "\x1b[2J\u202e.test": (1, 1)}
    printed = shell(state, "Denied, by host")
    assert printed.replace("\n", "").isprintable()
    counts = [line.strip().split(" ", 1) for line in printed.splitlines()]
    assert {json.loads(host): int(count) for count, host in counts} == {
        host: count for host, (count, _) in rows.items()
    }


def test_bytes_by_host(state, monkeypatch):
    rows = sql(state, monkeypatch, "Bytes by host and day")
    assert rows[0] == ("example.com", datetime.date(2026, 7, 2), 100, 2000, 1)
    assert rows[1][0] == "api.example.com"
    printed = [json.loads(line) for line in shell(state, "Bytes by host").splitlines()]
    assert printed == [list(rows[1][:1] + rows[1][2:4]), ["example.com", 100, 2000]]


def test_programs(state, monkeypatch):
    title = "Which program talked to a host, and how often"
    assert [(host, decision, program.rsplit("/")[-1], count) for host, decision, program, count in
            sql(state, monkeypatch, title)] == [
        ("api.example.com", "allow", "curl", 1), ("evil.example.com", "deny", "curl", 1),
    ]  # fmt: skip


def test_first_seen(state, monkeypatch):
    rows = sql(state, monkeypatch, "First and last seen, by host")
    assert [host for host, *_ in rows[:2]] == ["example.com", "evil.test"]
    assert rows[0][1] == rows[0][2]  # both sessions have it at the same millisecond
    assert (rows[-1][0], rows[-1][3]) == ("evil.example.com", GOLDEN)


def test_sessions(state, monkeypatch):
    rows = sql(state, monkeypatch, "All sessions, newest first")
    assert [(row[0], row[3]) for row in rows[:1]] == [(GOLDEN, 0)]
    assert {row[0]: row[2] is not None for row in rows[1:]} == {BUILT: True, KILLED: False}
    assert json.loads(rows[1][4]) == made.COMMAND


def test_files(state, monkeypatch):
    rows = sql(state, monkeypatch, "Files that were looked for and not granted")
    assert rows == [(GOLDEN, "/etc/locale.alias", "Read"), (GOLDEN, "/root", "Read")]


def test_decisions_about_a_host(state):
    printed = shell(state, "Every decision about a host, with its session and place in the log")
    [found] = [json.loads(line) for line in printed.splitlines()]
    assert (found[0], found[2]) == (f"audit/{GOLDEN}/audit-events.ndjson", "deny")


def test_every_recipe_is_run():
    assert len(BLOCKS) == 9
