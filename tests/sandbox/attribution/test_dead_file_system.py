"""A program on a file system that no longer answers: the run ends, and its record has a line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import RUN_SECONDS, SYSTEM_PYTHON, Sessions, landlock_isolation
from stuck_fuse import NAME, stuck_file_system

if TYPE_CHECKING:
    from collections.abc import Sequence

ASKING = """
import os, sys, urllib.error, urllib.request
import http.client, encodings.idna, stringprep
print("ready", flush=True)
sys.stdin.readline()
try: urllib.request.urlopen("http://asked.example/")
except urllib.error.HTTPError as error: print(error.code, flush=True)
sys.stdin.readline()
os._exit(7)
"""


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(["--isolation", "namespace"], id="namespace"),
        pytest.param(["--isolation", "landlock"], id="landlock", marks=landlock_isolation),
    ],
)
def test_the_run_ends(sessions: Sessions, tmp_path: Path, way: Sequence[str]) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    with (
        stuck_file_system(place, Path(SYSTEM_PYTHON).resolve()) as served,
        sessions.started(
            "run", "-s", *way, "--read", str(place), "--read", "/usr/lib",
            "--", "/bin/sh", "-c", '"$0" "$@"; exit $?', str(place / NAME), "-c", ASKING,
            stdin=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        served.stop()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "403\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(RUN_SECONDS) == 7
        assert sessions.verdict()[1]["verdict"] == "verified"
        (line,) = map(json.loads, (sessions.only / "processes.ndjson").read_text().splitlines())
        assert (line["state"], line["exe"]) == ("found", str(place / NAME))
        assert line["exe_sha256"] is None
