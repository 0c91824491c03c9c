"""A disk that fills in mid-session: strict stops the child, best-effort counts the loss."""

from __future__ import annotations

import compileall
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from disk_load import load
from harness import NONO_TRIO, RUN_SECONDS, Sessions
from installation import PACKAGE

from nono_trio.core.log.notices import LOST_TARGET

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Origin

# Enough for the session's own files and a few dozen records of some 700 bytes.
LIMIT = 24 * 1024
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # under the limit Python would cut its own
# On the small file system: what a session holds for its end, the floor that stays free, and some
# hundred records; far more requests to come than are made while the room is found again.
ROOM = 1024 * 1024
REQUESTS = 3000
FULL = 1000  # requests that have filled it


@pytest.fixture(autouse=True, scope="module")
def launcher_is_compiled() -> None:
    """The launcher ignores PYTHON* variables, and Python would cut its bytecode at the limit."""
    compileall.compile_dir(PACKAGE / "sandbox" / "launcher", quiet=2)


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def test_strict_stops_and_says_why(sessions: Sessions, origin: Origin) -> None:
    done = subprocess.run(
        [NONO_TRIO, *load(sessions, origin, 0)],
        env=sessions.environment | NO_BYTECODE, preexec_fn=limit_file_size, cwd=sessions.home,
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "the audit log can't be written: File too large" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    code, verdict = sessions.verdict()
    assert (code, verdict["verdict"]) == (6, "crashed")
    records = sessions.records()
    assert verdict["event_count"] == len(records)
    recorded = {event["path"] for event in sessions.decisions()}
    assert set(origin.seen) <= recorded


def test_best_effort_goes_on_and_counts(sessions: Sessions, origin: Origin) -> None:
    """Only the log is limited here: the loss can be recorded once there is space."""
    done = subprocess.run(
        [NONO_TRIO, *load(sessions, origin, 200, "--audit-mode", "best-effort")],
        env=sessions.environment | NO_BYTECODE, preexec_fn=limit_file_size, cwd=sessions.home,
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert len(origin.seen) == 200  # no request was broken
    assert "events lost so far" in done.stderr
    assert done.stderr.count("events lost so far") < 20  # at doubling intervals
    told = [event for event in sessions.decisions() if event["target"] == LOST_TARGET]
    if done.returncode == 0:  # what was left below the limit held the count and the end
        assert sessions.verdict()[1]["verdict"] == "verified"
        assert len(told) == 1
    else:  # it did not hold the end either: not sealed, and said so
        assert done.returncode == 4
        assert sessions.verdict()[1]["verdict"] == "crashed"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare(1) is not installed")
@pytest.mark.parametrize("mode", ["strict", "best-effort"])
def test_a_full_file_system_that_gets_room_again(
    sessions: Sessions, origin: Origin, tmp_path: Path, mode: str
) -> None:
    """A real ENOSPC on a small tmpfs; a ballast file is removed while the session lives."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run = load(sessions, origin, REQUESTS, "--audit-mode", mode, "--audit-dir", str(disk / "state"))
    script = f"""
    mount -t tmpfs -o size=8m tmpfs {disk} || exit 99
    head -c {8 * 1024 * 1024 - ROOM} /dev/zero >{disk}/ballast
    (
      while [ "$(cat {tmp_path}/seen 2>/dev/null)" != full ]; do sleep 0.05; done
      rm {disk}/ballast
    ) &
    "$@" 2>{tmp_path}/stderr; code=$?
    echo full >{tmp_path}/seen
    wait
    cp -r {disk}/state {tmp_path}/kept
    exit $code
    """
    watcher = tmp_path / "seen"
    process = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", script, "sh", NONO_TRIO, *run],
        env=sessions.environment, cwd=sessions.home,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if mode == "best-effort":
            from harness import wait_until

            wait_until(lambda: len(origin.seen) >= FULL, "requests go on past the full disk", 20)
            watcher.write_text("full")
        _, stderr = process.communicate(timeout=RUN_SECONDS)
    finally:
        process.kill()
    if process.returncode == 99:
        pytest.skip(f"no tmpfs may be mounted in a user namespace here: {stderr.strip()}")
    sessions.state = tmp_path / "kept"
    (directory,) = sessions.directories
    code, verdict = sessions.verdict(directory)
    said = (tmp_path / "stderr").read_text()
    if mode == "strict":
        assert process.returncode == 4
        assert "the audit log can't be written: " in said
        assert (code, verdict["verdict"]) == (0, "verified")  # the end had its room
        assert sessions.decisions(directory)[-1]["reason"].startswith("ended: the audit log can't")
        assert len(origin.seen) < REQUESTS
        recorded = {event["path"] for event in sessions.decisions(directory)}
        assert set(origin.seen) <= recorded
        return
    assert process.returncode == 0, said
    assert (code, verdict["verdict"]) == (0, "verified")
    lost = [e for e in sessions.decisions(directory) if e["target"] == "nono-trio:audit"]
    total = sum(int(event["reason"].split()[0]) for event in lost)
    assert total > 0
    allowed = [e for e in sessions.decisions(directory) if e["decision"] == "allow"]
    assert len(allowed) + total == REQUESTS
