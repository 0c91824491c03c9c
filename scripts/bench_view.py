"""Measure the cost of the answering view (docs/denied-files.md): a build in a granted tree, memory.

The peer of the build is the same run in a mount namespace where /dev/null lies over /dev/fuse, so
its view is the plain one. Both runs of a pair come right after each other, and the order changes.
Needs root and a C compiler.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench_load import NONO_TRIO, BenchmarkFailed, environment, find_compiler
from bench_report import Row, as_table
from processes import tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS, FILES = 11, 150
LOOK_UPS, WARM_UP = 100_000, 20_000
RUN_SECONDS = 600.0
AIM = 1.03
PLAIN = ("unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/fuse && exec "$@"', "sh")

# Prints the wall time in nanoseconds, then the CPU time of what it started (`times`).
BUILD = """
began=$(date +%s%N)
for source in source/*.c; do
    "$1" -O1 -w -Iinclude -c "$source" -o "build/${source##*/}.o" || exit 1
done
echo $(($(date +%s%N) - began))
times
"""
LOOK = """
import os, sys
first, last = map(int, sys.argv[1:])
for number in range(last):
    os.path.exists(f"/missing/{number}")
    os.path.exists(f"/missing-{number}")
    if number + 1 in (first, last):
        print("done", flush=True)
        sys.stdin.readline()
"""


def make_tree(tree: Path) -> None:
    """Make a source tree with a header for each file, to be found in one of two directories."""
    for name in ("source", "include", "build"):
        (tree / name).mkdir(parents=True)
    for number in range(FILES):
        (tree / "include" / f"part{number}.h").write_text(f"int part{number}(int);\n")
        lines = ["#include <stdio.h>", "#include <stdlib.h>", f'#include "part{number}.h"']
        lines += [f"int part{number}(int given) {{ return abs(given) + {number}; }}", ""]
        (tree / "source" / f"part{number}.c").write_text("\n".join(lines))


def build(tree: Path, state: Path, compiler: str, prefix: Sequence[str]) -> tuple[float, float]:
    """Return the CPU seconds and the wall milliseconds of one build in a cage."""
    command = [*prefix, str(NONO_TRIO), "run", "-s", "--allow", str(tree), "--"]
    done = subprocess.run(
        [*command, "sh", "-c", BUILD, "sh", compiler],
        env=environment(state), cwd=tree, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=RUN_SECONDS,
    )  # fmt: skip
    lines = done.stdout.split("\n")
    if done.returncode or len(lines) < 3:
        raise BenchmarkFailed(f"the build failed: {done.stderr[-400:]}")
    return sum(map(_seconds, lines[2].split())), int(lines[0]) / 1e6


def _seconds(text: str) -> float:
    minutes, _, seconds = text.partition("m")
    return int(minutes) * 60 + float(seconds.rstrip("s"))


def measure_builds(directory: Path, rounds: int) -> Iterator[Row]:
    """Yield the rows of the build, in pairs with and without the view."""
    compiler = find_compiler()
    if compiler is None:
        raise BenchmarkFailed("the benchmark needs a C compiler (cc), got none")
    place, state = directory / "tree", directory / "state"
    make_tree(place)
    cpu = Row("build in a granted tree, by plain", "CPU seconds", aim=AIM)
    wall = Row("build in a granted tree, by plain", "wall time, ms", aim=AIM)
    for number in range(rounds + 1):
        kinds: list[Sequence[str]] = [(), PLAIN]
        order = kinds if number % 2 == 0 else kinds[::-1]
        taken = {len(prefix): build(place, state, compiler, prefix) for prefix in order}
        if number:  # the first pair fills the caches
            ours, plain = taken[0], taken[len(PLAIN)]
            cpu.add(ours[0], plain[0])
            wall.add(ours[1], plain[1])
    yield from (cpu, wall)


def measure_memory(state: Path) -> Row:
    """Return the resident memory after LOOK_UPS missing names by that after WARM_UP."""
    row = Row(f"memory, {LOOK_UPS:,} look-ups by {WARM_UP:,}", "resident MB", aim=AIM)
    script = ["/usr/bin/python3", "-c", LOOK, str(WARM_UP), str(LOOK_UPS)]
    with subprocess.Popen(
        [str(NONO_TRIO), "run", "-s", "--", *script], env=environment(state), cwd="/", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        figures = []
        for _ in range(2):
            if process.stdout is None or process.stdin is None or not process.stdout.readline():
                raise BenchmarkFailed("the look-ups ended early")
            figures.append(_resident_megabytes(process.pid))
            process.stdin.write("\n")
            process.stdin.flush()
    row.add(figures[1], figures[0])
    return row


def _resident_megabytes(supervisor: int) -> float:
    """Of the supervisor and the view's server: the processes of the cage are not theirs."""
    ours = [one for one in tree(supervisor) if one == supervisor or _holds_device(one)]
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in ours)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _holds_device(process: int) -> bool:
    links = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            links.append(os.readlink(link))
        except OSError:
            continue
    return "/dev/fuse" in links


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:  # /tmp is the cage's own
        rows = [*measure_builds(Path(directory), given.rounds), measure_memory(Path(directory))]
    print(as_table(rows))


if __name__ == "__main__":
    try:
        main()
    except BenchmarkFailed as failure:
        sys.exit(f"bench: {failure}")
