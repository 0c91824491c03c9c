#!/usr/bin/env python3
"""How many sessions one core verifies in a second, and what a million of them cost.

usage: .venv/bin/python scripts/bench_fleet.py [SESSIONS [ROUNDS]]

Sealed sessions of three sizes are verified by `verify_root` in this process. Beside each round the
same files are read and hashed once with SHA-256, which is the least that any proof costs: on a
machine with other work only that ratio means something. Times are CPU seconds of this process
(user and system), so waiting for the disk or the network is not in them.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from nono_trio.audit.verify.many import verify_root

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))

import sealed_session as made

MILLION = 1_000_000


def write_sessions(root: Path, sessions: int, records: int) -> int:
    """Write that many sealed sessions; return their bytes."""
    decisions = [
        made.network(number, "deny" if number % 3 else "allow", f"h{number % 40}.test")
        for number in range(records - 5)  # the others: two that bind files, start, cage and end
    ]
    payloads = [made.started(), made.sandbox_runtime(), *decisions, made.ended()]
    for number in range(sessions):
        made.build(root, f"{number:016x}", payloads, (3,), flows=[made.flow(3)])
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def hash_files(root: Path) -> None:
    """Read and hash every file once."""
    for path in root.rglob("*"):
        if path.is_file():
            hashlib.sha256(path.read_bytes()).hexdigest()


def cpu_seconds(work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def verify_all(root: Path, sessions: int) -> None:
    answers = list(verify_root(root))
    assert [answer.verdict for answer in answers] == ["verified"] * sessions, answers[0]


def main() -> None:
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(f"{platform.machine()}, Python {platform.python_version()}, {rounds} rounds, medians")
    print("| records | kB | sessions a second | CPU to SHA-256's | core-hours a million |")
    print("|--:|--:|--:|--:|--:|")
    for records in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory) / "audit"
            count = max(1, sessions * 10 // records)
            size = write_sessions(root, count, records)
            verify_all(root, count)  # imports, and the page cache
            ours, least = [], []
            for _ in range(rounds):
                least.append(cpu_seconds(lambda root=root: hash_files(root)))
                ours.append(cpu_seconds(lambda root=root, n=count: verify_all(root, n)))
            each = statistics.median(ours) / count
            ratio = statistics.median(a / b for a, b in zip(ours, least, strict=True))
            hours = each * MILLION / 3600
            print(
                f"| {records:,} | {size / count / 1000:.0f} | {1 / each:,.0f} | {ratio:.1f} x |"
                f" {hours:.1f} |"
            )


if __name__ == "__main__":
    main()
