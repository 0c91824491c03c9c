#!/usr/bin/env python3
"""The speed of `audit verify`, as whole processes, beside upstream's package (nono_py.audit).

usage: .venv/bin/python scripts/bench_verify.py [RECORDS [ROUNDS]]

The rounds are interleaved: each runs nono_py, then one job, then two. Each round gives a pair of
times, nono_py's and ours; the ratios are the medians over the rounds, of wall time and of CPU time
(user and system, of all processes of one command). More than 1 is faster than nono_py. On a machine
with other work the ratios of CPU time mean most. The session is a crashed one, so that it can be
written in constant memory; its records are checked like those of any other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import xxhash

from nono_trio.audit import store
from nono_trio.core.log.events import encode_payload
from nono_trio.core.log.merkle import MerkleAccumulator
from nono_trio.core.log.record import encode_record
from nono_trio.core.log.session_json import Checkpoint, encode_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))

import sealed_session as made

EACH = 10_000  # records between two checkpoints


def write_session(root: Path, records: int) -> Path:
    """Write a session whose log has that many records."""
    directory: Path = made.unsealed(root, payloads=[made.started()], counts=())
    lines = (directory / store.LOG).read_bytes().splitlines(keepends=True)
    tree, size, segment, prev = MerkleAccumulator(), 0, xxhash.xxh3_64(), b""
    for line in lines:
        link = msgspec.json.decode(line)
        tree.append(bytes.fromhex(link["leaf_hash"]))
        prev, size = bytes.fromhex(link["chain_hash"]), size + len(line)
        segment.update(line)
    with (directory / store.LOG).open("ab") as log, (directory / store.CHECKPOINTS).open("wb") as f:
        for sequence in range(len(lines), records):
            decision, host = "deny" if sequence % 3 else "allow", f"host{sequence % 40}.test"
            payload = encode_payload(made.network(sequence, decision, host))
            line, leaf, prev = encode_record(sequence, prev, payload)
            tree.append(leaf)
            segment.update(line)
            size += len(line)
            log.write(line)
            if sequence % EACH == EACH - 1:
                mark = Checkpoint(
                    time=made.STARTED,
                    event_count=sequence + 1,
                    offset=size,
                    chain_head=prev.hex(),
                    merkle_root=tree.root().hex(),
                    lost_total=0,
                    segment_xxh3=segment.hexdigest(),
                )
                f.write(encode_checkpoint(mark))
                segment.reset()
    return directory


def measure(command: list[str]) -> tuple[float, float, int]:
    """Run a command; return (wall seconds, CPU seconds, KiB of its largest process)."""
    start, quiet = time.perf_counter(), subprocess.DEVNULL  # the verdict and its hint
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss


def main() -> None:
    """Measure and print."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as scratch:
        directory = str(write_session(Path(scratch) / "audit", records))
        program = str(Path(sys.executable).with_name("nono-trio"))
        verify = [program, "audit", "verify", directory, "--jobs"]
        peer = f"import nono_py.audit as audit; audit.verify_log({directory!r})"
        commands = {
            "nono_py": [sys.executable, "-c", peer],
            "1 job": [*verify, "1"],
            "2 jobs": [*verify, "2"],
        }
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                found[name].append(measure(command))
    print(
        f"{'best of ' + str(rounds):10}    wall      records/s     CPU   times nono_py: wall, CPU"
    )
    for name, times in found.items():
        wall, used, _ = (min(column) for column in zip(*times, strict=True))
        peak = max(memory for _, _, memory in times) / 1024
        pairs = list(zip(found["nono_py"], times, strict=True))
        by_wall, by_cpu = (
            statistics.median(theirs[kind] / ours[kind] for theirs, ours in pairs)
            for kind in (0, 1)
        )
        print(
            f"{name:9} {wall:5.2f} s {records / wall:12,.0f} {used:6.2f} s"
            f"                   {by_wall:5.2f} {by_cpu:4.2f} {peak:6.0f} MiB"
        )


if __name__ == "__main__":
    main()
