"""`kill -9` of the supervisor at random instants: whatever an origin saw is in the log (P1)."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import TYPE_CHECKING

import pytest
from harness import PROBES, PYTHON_GRANTS, Sessions, processes_with, sleep_marker, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Origin

# The issue asks for 50 instants; each test takes ten, so that a failure names its seed.
KILLS = 10


@pytest.mark.parametrize("seed", range(5))
def test_every_request_that_an_origin_saw_is_in_the_log(
    sessions: Sessions, origin: Origin, seed: int
) -> None:
    instants = random.Random(seed)
    crashed: dict[Path, str] = {}  # the session, and where its requests' paths begin
    for number in range(KILLS):
        start = f"/{seed}/{number}/"
        url = f"http://api.example.com:{origin.port}{start}"
        command = [
            "run", "-s", *PYTHON_GRANTS, "--read", str(PROBES),
            "--allow-domain", f"api.example.com:{origin.port}",
            "--resolve", f"api.example.com:{origin.port}:127.0.0.1",
            "--", sys.executable, str(PROBES / "load.py"), url, "32", "0",
        ]  # fmt: skip
        with sessions.started(*command) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "up\n"
            # The instant of the crash is what is tested: after so many requests, and a little more.
            wanted = len(origin.seen) + instants.randrange(100)
            wait_until(lambda wanted=wanted: len(origin.seen) >= wanted, "load")  # type: ignore[misc]
            time.sleep(instants.uniform(0, 0.02))
            run.kill()
            wait_until(lambda url=url: not processes_with(url), "the child's tree is gone")  # type: ignore[misc]
        (directory,) = set(sessions.directories) - crashed.keys()
        crashed[directory] = start
    assert len(origin.seen) > 100  # there was load, or nothing was tested
    assert_all_recorded(sessions, crashed, set(origin.seen))
    assert sessions.run("--", "true").returncode == 0


def assert_all_recorded(sessions: Sessions, crashed: dict[Path, str], seen: set[str]) -> None:
    done = sessions.call("audit", "verify", "--json", *map(str, crashed))
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(verdicts)) == (6, KILLS)
    for (directory, start), verdict in zip(crashed.items(), verdicts, strict=True):
        assert verdict["verdict"] == "crashed", verdict
        recorded = {
            event["path"] for event in sessions.decisions(directory) if event["decision"] == "allow"
        }
        missing = {path for path in seen if path.startswith(start)} - recorded
        assert not missing
        assert verdict["event_count"] == len(sessions.records(directory))


def test_a_crash_before_the_child_runs(sessions: Sessions) -> None:
    """Killed as soon as its session exists: it can be listed and says crashed."""
    marker = sleep_marker()
    with sessions.started("run", "--", "sleep", marker) as run:
        wait_until(lambda: any((d / "session.json").exists() for d in sessions.directories), "open")
        run.kill()
    wait_until(lambda: not processes_with(marker), "the child is gone")
    assert sessions.verdict()[1]["verdict"] == "crashed"
    listed = json.loads(sessions.call("audit", "list", "--json").stdout)
    assert [session["status"] for session in listed["sessions"]] == ["crashed"]
