"""The demo and the benchmark run, and the demo notices when something does not come out right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from checkout import ROOT
from harness import LANDLOCK_NETWORK

SCRIPTS = ROOT / "scripts"
# The demo takes two seconds, the quick benchmark a few; both stop by themselves long before this.
SECONDS = 1200

LOADS = [
    "CONNECT, 1 client",
    "CONNECT, 32 clients",
    "CONNECT, 256 clients",
    "deny, 32 clients",
    "forward, 32 clients, one each",
    "forward, 32 clients, keep-alive",
    "bulk, 1 tunnel",
    "bulk, 8 tunnels",
    "upload, 1 tunnel",
    "upload, 8 tunnels",
]

STARTS = {
    "run -- true, by import trio",
    "with --intercept, by run -- true",
    "--help, by bare python",
    "audit list, by bare python",
}

INTERCEPTED = [
    "HTTP/1.1, 32 clients",
    "HTTP/2, 4 clients, 32 streams",
    "new connections, 8 at a time",
    "server-sent events, 32 streams",
    "download",
    "upload",
    "HTTP/1.1, 32 clients, p50",
    "HTTP/1.1, 32 clients, p99",
    "HTTP/2, 4 clients, 32 streams, p50",
    "HTTP/2, 4 clients, 32 streams, p99",
    "10 hosts open",
]


def run_script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=SCRIPTS, env=os.environ | variables,
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


def test_the_demo_comes_out_as_expected_and_leaves_nothing_behind(tmp_path):
    finished = run_script("demo_session.py", TMPDIR=str(tmp_path))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert not re.search("FAILED:|expectations FAILED", finished.stdout)
    lines = finished.stdout.splitlines()
    for start in (
        "$ nono-trio run --name demo --follow",
        "agent: ok      GET https://api.example.com:",
        "agent: blocked GET https://evil.example.net/",
        "agent: blocked read ~/.ssh/id_ed25519",
        "$ nono-trio audit show latest",
        "verified ",
        "# exit code 0",
        "$ kill -9 ",
        "crashed ",
        "# exit code 6",
    ):
        assert any(line.startswith(start) for line in lines), f"{start!r} in {finished.stdout}"
    assert any("allow connect  api.example.com:" in line for line in lines)
    assert lines[-1].startswith("# All ")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_fails_when_an_expectation_is_not_met():
    wrong = "import demo_session, sys; demo_session.CRASHED = 99; sys.exit(demo_session.main())"
    finished = run_script("-c", wrong)
    assert finished.returncode == 1
    expected = "exit code of audit verify after a crash: 99"
    assert f"# FAILED: expected {expected}; got 6" in finished.stdout
    assert finished.stdout.endswith(f"were met:\n#   expected {expected}\n")


@pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None,
    reason="the benchmark's load generator is C, and there is no C compiler (cc) here",
)
def test_the_quick_benchmark_fills_every_row():
    finished = run_script("bench_peers.py", "--quick", "--json", MITMDUMP="no such program")
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert (report["schema"], report["quick"]) == (2, True)
    for row in report["rows"]:
        assert row["ours"] > 0
        assert (row["ratio"] is None) == (row["peer"] is None)
        assert (row["met"] is None) == (row["aim"] is None)
    # The other proxies and cages are those that are installed.
    by_rust = [row for row in report["rows"] if row["peer_name"] == "the Rust proxy"]
    costs = [row["name"] for row in by_rust if row["unit"].startswith("CPU s")]
    assert costs == [one for one in LOADS if not one.startswith("forward")]
    latencies = [row["name"] for row in by_rust if row["unit"].startswith("latency")]
    assert latencies == ["CONNECT, 32 clients", "deny, 32 clients"] * 2
    rest = [row for row in report["rows"] if row["peer_name"] is None]
    assert [row["name"] for row in rest if row["peer"] is None] == [
        *INTERCEPTED,
        "audit verify, 100 requests",
        "cage gone after kill -9",
    ]
    landlock = {"landlock run -- true, by import trio"} if LANDLOCK_NETWORK else set()
    for unit in ("start, CPU ms", "start, wall ms"):
        assert {row["name"] for row in rest if row["unit"] == unit} >= STARTS | landlock
