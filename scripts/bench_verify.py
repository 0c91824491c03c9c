#!/usr/bin/env python3
"""The speed of `audit verify`, as whole processes, beside upstream's package (nono_py.audit).

usage: .venv/bin/python scripts/bench_verify.py [RECORDS [ROUNDS]]

The rounds are interleaved: each runs nono_py, then one job, then two. On a machine with other work
only the ratios mean something; the CPU seconds (user and system, of all processes of one command)
mean most. The session is a crashed one, so that it can be written in constant memory; its records
are checked like those of any other.
"""

from __future__ import annotations

import resource
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


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return (wall seconds, CPU seconds)."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def main() -> None:
    """Measure and print."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as scratch:
        directory = str(write_session(Path(scratch) / "audit", records))
        verify = [sys.executable, "-m", "nono_trio", "audit", "verify", directory, "--jobs"]
        peer = f"import nono_py.audit as audit; audit.verify_log({directory!r})"
        commands = {
            "nono_py": [sys.executable, "-c", peer],
            "1 job": [*verify, "1"],
            "2 jobs": [*verify, "2"],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                found[name].append(measure(command))
    for name, times in found.items():
        ratios = sorted(a[0] / b[0] for a, b in zip(found["nono_py"], times, strict=True))
        wall, used = (min(column) for column in zip(*times, strict=True))
        print(
            f"{name:8} {wall:7.2f} s {records / wall:10,.0f} records/s {used:7.2f} CPU s"
            f"  {ratios[len(ratios) // 2]:.2f} times nono_py (median)"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest process {peak:.0f} MiB (nono_py among them)")


if __name__ == "__main__":
    main()
