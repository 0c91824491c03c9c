"""Torture real sessions: `kill -9`, full and broken disks, limits, jumps of the clock, crowds.

    scripts/torture [--seed N] [--rounds N] [--first N] [--only NAME]...

After each session its log is verified and recovered. What must hold: no answer that the client got
and no request that the origin saw is missing in the log; no false `verified`; no hang; no process,
directory or mount is left over. A fault is named with the command that tries its round again, and
its files are kept. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from torture_scenarios import SCENARIOS, World
from torture_session import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torture_session import Tortured

ROUNDS = 3


def tortured(name: str, world: World) -> tuple[int, list[tuple[Tortured, str]]]:
    """Run one scenario once; return how many sessions it had, and the faults found."""
    count, found = 0, []
    for made in SCENARIOS[name](world):
        count += 1
        faults = made.check()
        found += [(made, fault) for fault in faults]
        if not faults:
            shutil.rmtree(made.directory)
    return count, found


def torture(names: Sequence[str], seed: int, numbers: range, base: Path) -> int:
    """Run the rounds `numbers` of the scenarios; print a line a round, return the faults' count."""
    total = 0
    with Origin() as origin:
        threading.Thread(target=origin.serve_forever, args=(0.05,), daemon=True).start()
        for number in numbers:
            for name in names:
                world = World(base, origin, random.Random(f"{seed} {number} {name}"), number)
                began = time.monotonic()
                count, found = tortured(name, world)
                taken = time.monotonic() - began
                print(f"{name} {number}: {count} sessions, {len(found)} faults, {taken:.1f} s")
                for made, fault in found:
                    print(f"  FAULT {fault}\n  its files: {made.directory}")
                    print(f"  again: scripts/torture --seed {seed} --first {number} --rounds 1"
                          f" --only {name}")  # fmt: skip
                sys.stdout.flush()
                total += len(found)
        origin.shutdown()
    return total


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; without --seed a new seed."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture", description="Torture real sessions (docs/reliability.md)."
    )
    parser.add_argument("--seed", type=int, help="the same seed, the same torture")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS], help="one scenario")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 1 << 31)
    return options


def main(arguments: Sequence[str]) -> int:
    """Torture; return the exit code."""
    options = parse_options(arguments)
    names = options.only or [*SCENARIOS]
    print(f"seed {options.seed}")
    base = Path(tempfile.mkdtemp(prefix="torture-"))
    numbers = range(options.first, options.first + options.rounds)
    total = torture(names, options.seed, numbers, base)
    print(f"{total} faults")
    if total == 0:
        shutil.rmtree(base)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
