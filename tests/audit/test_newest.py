"""Which session is `latest`: no clock that was wrong decides it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from harness import wait_until
from schemas import validate
from sealed_session import SMALL, build

from nono_trio.audit import store
from nono_trio.core.log.session_json import NonoTrioFacts, SessionMetadata

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Sessions

FUTURE = "2999-01-01T00:00:00Z"


def from_the_future(directory: Path) -> None:
    path = directory / store.SESSION
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | {"started": FUTURE}).encode())


def crashed(root: Path, name: str, started: str) -> Path:
    directory = store.create_session_directory(root, name)
    metadata = SessionMetadata(
        session_id=name, started=started, command=["x"], tracked_paths=[], merkle_roots=[],
        nono_trio=NonoTrioFacts(),
    )  # fmt: skip
    store.write_session_json(directory, metadata)
    return directory


def test_sealed_sessions_are_in_the_ledgers_order(tmp_path: Path) -> None:
    first = build(tmp_path, session_id="aaaa", payloads=SMALL)
    second = build(tmp_path, session_id="bbbb", payloads=SMALL)
    from_the_future(first)
    assert store.find_session(tmp_path, "latest") == second


def test_a_crashed_session_is_latest_unless_it_is_from_the_future(tmp_path: Path) -> None:
    sealed = build(tmp_path, session_id="aaaa", payloads=SMALL)
    crashed(tmp_path, "bbbb", FUTURE)
    assert store.find_session(tmp_path, "latest") == sealed
    now = crashed(tmp_path, "cccc", "2026-07-03T00:00:00Z")
    assert store.find_session(tmp_path, "latest") == now
    crashed(tmp_path, "dddd", "2026-07-01T00:00:00Z")
    assert store.find_session(tmp_path, "latest") == now


def test_a_ledger_that_is_no_file_leaves_the_starts(tmp_path: Path) -> None:
    crashed(tmp_path, "aaaa", "2026-07-01T00:00:00Z")
    newer = crashed(tmp_path, "bbbb", "2026-07-02T00:00:00Z")
    (tmp_path / "ledger.ndjson").mkdir()
    assert store.find_session(tmp_path, "latest") == newer


def test_stop_latest_means_what_runs(sessions: Sessions) -> None:
    assert sessions.run("--", "true").returncode == 0
    from_the_future(sessions.only)
    with sessions.started("run", "--name", "lives", "--", "sleep", "60") as process:
        wait_until(lambda: len(sessions.directories) == 2, "the second session", 60)
        wait_until(lambda: sessions.call("inspect", "lives").returncode == 0, "its name", 60)
        stopped = sessions.call("stop", "latest", "--json")
        assert json.loads(stopped.stdout)["status"] == "sealed", stopped.stderr
        validate("stop", json.loads(stopped.stdout))
        process.wait(60)
