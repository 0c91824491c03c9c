"""Do the tests bite? Change the code in small ways, in a copy, and see whether a test fails.

    scripts/mutate [--count N] [--seed N] [--only PATH[:LINE]]... [--jobs N] [--most SECONDS]
                   [--processes] [--verbose]

Each mutant changes one place (scripts/mutate_operators.py). It is tried against the tests that call
its function (scripts/mutate_tests.py), until one fails. A mutant that no test notices is a survivor
and is shown as a diff: a test is missing, or the change means nothing. The same seed chooses the
same mutants of the same code. The exit code is 1 if there are survivors.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import queue
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mutate_copies import Copy
from mutate_operators import MODULE, Mutant, mutants
from mutate_tests import PROCESSES, ROWS, row
from mutate_worker import NOT_THE_COPY, NOTHING_RUN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
COUNT = 100
MOST = 20.0  # CPU seconds of tests for one mutant, as they took in the first run
# A mutant may slow its tests down before it is taken for an endless one.
START_CPU, START_SECONDS = 20.0, 120.0
CPU_FACTOR, SECONDS_FACTOR = 4.0, 20.0
REACH_SECONDS = 1800.0

Rows = dict[str, tuple[str, ...]]
Sources = dict[str, bytes]  # the copies of the files with mutants


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a mutant: `killed` by a test or by the limit, `survived`, or `unreached`."""

    mutant: Mutant
    kind: str
    by: str  # the test that failed, or the reason
    tests: int  # how many were to be run


@dataclasses.dataclass(slots=True)
class Reached:
    """Which tests call which function, and the CPU time of each."""

    seconds: dict[str, float]
    of_function: dict[tuple[str, int], set[str]]
    of_file: dict[str, set[str]]
    failed: list[str]  # tests that fail without a mutant; they are not used

    def tests(self, mutant: Mutant, most: float) -> list[str]:
        """The tests about a mutant, quick ones first, for `most` seconds."""
        ids = self.of_function.get((mutant.path, mutant.function), set())
        if mutant.function == MODULE:
            ids = self.of_file.get(mutant.path, set())
        chosen, total = [], 0.0
        for one in sorted(ids, key=lambda one: self.seconds[one]):
            total += self.seconds[one]
            if chosen and total > most:
                break
            chosen.append(one)
        return chosen


def all_mutants(root: Path, only: Sequence[str], rows: Rows) -> tuple[list[Mutant], Sources]:
    """The mutants of the files of `only`, or of those that the table has, and these files."""
    found: list[Mutant] = []
    sources: Sources = {}
    for name in only or [*rows]:
        path, _, line = name.partition(":")
        files = [root / path] if path.endswith(".py") else sorted((root / path).rglob("*.py"))
        if not files or not files[0].exists():
            raise SystemExit(f"no Python file at {path}")
        for file in files:
            relative = str(file.relative_to(root))
            if not row(rows, relative):
                raise SystemExit(f"scripts/mutate_tests.py has no tests for {relative}")
            sources[relative] = file.read_bytes()
            of_file = mutants(relative, sources[relative])
            found += [one for one in of_file if not line or one.line == int(line)]
    return found, sources


def sample(sources: Sources, found: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of the mutants (all for 0) by the seed, each a program of its own."""
    shuffled = list(found)
    random.Random(seed).shuffle(shuffled)
    chosen: list[Mutant] = []
    for one in shuffled:
        if one.is_one(sources[one.path]):
            chosen.append(one)
            if len(chosen) == count:
                break
    return chosen


def default_cache() -> Path:
    """A directory outside of the checkout for what the tests call."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nono-trio-mutate"


class Run:
    """Tries mutants in copies of one checkout."""

    def __init__(self, copies: Sequence[Copy], sources: Sources, rows: Rows, processes: Rows,
                 seed: int, most: float) -> None:  # fmt: skip
        self._root = copies[0].root
        self._sources = sources
        self._rows = rows
        self._processes = processes
        self._seed = seed
        self._most = most
        self._free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for one in copies:
            self._free.put(one)
        shared = ("nono_trio/**/*.py", "tests/support/**/*.py", "tests/conftest.py")
        self._code = self._digest([one for name in shared for one in self._root.glob(name)])
        self._cache = default_cache()
        self._threads = concurrent.futures.ThreadPoolExecutor(len(copies))

    def reached(self, chosen: Sequence[Mutant]) -> Reached:
        """Run the tests of the mutants' rows once without a mutant."""
        named = dict.fromkeys(one for mutant in chosen for one in row(self._rows, mutant.path))
        files = dict.fromkeys(file for one in named for file in self._test_files(one))
        found = Reached({}, collections.defaultdict(set), collections.defaultdict(set), [])
        for tests in self._threads.map(self._reach, files):
            for name, about in tests.items():
                if not about["passed"]:
                    found.failed.append(name)
                    continue
                found.seconds[name] = about["seconds"]
                for path, line in about["called"]:
                    found.of_function[path, line].add(name)
                    found.of_file[path].add(name)
        return found

    def _digest(self, paths: Sequence[Path]) -> str:
        """A hash of the files' names and contents."""
        found = hashlib.sha256()
        for path in sorted(paths):
            data = path.read_bytes()
            found.update(f"{path.relative_to(self._root)} {len(data)}\n".encode() + data)
        return found.hexdigest()[:24]

    def _test_files(self, name: str) -> list[str]:
        path = self._root / name
        files = [path] if name.endswith(".py") else sorted(path.rglob("test_*.py"))
        return [str(one.relative_to(self._root)) for one in files]

    def _reach(self, file: str) -> dict:
        """Return what each test of a file calls, from the cache if nothing has changed."""
        known = self._cache / f"{self._code}-{self._digest([self._root / file])}.json"
        if known.exists():
            return json.loads(known.read_text())
        copy = self._free.get()
        try:
            answer = copy.run([file], reach=True, cpu=REACH_SECONDS, seconds=REACH_SECONDS,
                              seed=self._seed)  # fmt: skip
        finally:
            self._free.put(copy)
        if answer["code"] not in (0, 1, NOTHING_RUN) or not answer["in_time"]:
            raise SystemExit(f"{file} can't be run without a mutant:\n{answer['output']}")
        if answer["code"] != 1:
            self._cache.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(answer["tests"]))
        return answer["tests"]

    def outcomes(self, chosen: Sequence[Mutant], reached: Reached) -> Iterator[Outcome]:
        """Try each mutant; yield what came of it, in the order of the ends."""
        tasks = [self._threads.submit(self._try, one, reached) for one in chosen]
        try:
            for one in concurrent.futures.as_completed(tasks):
                yield one.result()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def _try(self, mutant: Mutant, reached: Reached) -> Outcome:
        ids = reached.tests(mutant, self._most)
        also = row(self._processes, mutant.path)
        if not ids and not also:
            return Outcome(mutant, "unreached", "no test calls it", 0)
        taken = sum(reached.seconds[one] for one in ids)
        files = list(dict.fromkeys(one.partition("::")[0] for one in ids))
        copy = self._free.get()
        try:
            copy.put(mutant)
            kind, by = "survived", ""
            if ids:
                kind, by = self._verdict(copy, files, ids, taken)
            if kind == "survived" and also:
                kind, by = self._verdict(copy, also, (), self._most)
        finally:
            copy.restore(mutant, self._sources[mutant.path])
            self._free.put(copy)
        return Outcome(mutant, kind, by, len(ids))

    def _verdict(
        self, copy: Copy, files: Sequence[str], ids: Sequence[str], taken: float
    ) -> tuple[str, str]:
        answer = copy.run(
            files, ids, seed=self._seed,
            cpu=START_CPU + CPU_FACTOR * taken, seconds=START_SECONDS + SECONDS_FACTOR * taken,
        )  # fmt: skip
        code = answer["code"]
        if code == NOT_THE_COPY or (code == NOTHING_RUN and not answer["failed"]):
            raise SystemExit(f"the tests did not run in the copy ({code}):\n{answer['output']}")
        if code == 0:
            return "survived", ""
        if not answer["in_time"] or code < 0:
            return "killed", f"limit (signal {-code})"
        last = answer["output"].rstrip().rpartition("\n")[2]
        return "killed", answer["failed"] or f"exit code {code}: {last}"


def mutate(checkout: Path, options: argparse.Namespace, rows: Rows, processes: Rows) -> int:
    """Try mutants as the options say and print what came of them; return the survivors' count."""
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nono-trio-mutate-")))
        copies = []
        for number in range(options.jobs):
            (directory := base / str(number)).mkdir()
            copies.append(stack.enter_context(Copy(checkout, directory)))
        every, sources = all_mutants(copies[0].root, options.only, rows)
        chosen = sample(sources, every, options.count, options.seed)
        print(f"seed {options.seed}: {len(chosen)} of {len(every)} mutants", flush=True)
        run = Run(copies, sources, rows, processes, options.seed, options.most)
        reached = run.reached(chosen)
        for name in reached.failed:
            print(f"not used, it fails or is skipped without a mutant: {name}")
        print(f"{len(reached.seconds)} tests, {sum(reached.seconds.values()):.0f} s", flush=True)
        done = []
        for one in run.outcomes(chosen, reached):
            done.append(one)
            show(sources, one, options.verbose)
    return summary(done)


def show(sources: Sources, one: Outcome, verbose: bool) -> None:
    """Print a survivor, or all if `verbose`."""
    if one.kind != "killed":
        print(f"{one.kind.upper()} {one.mutant.name} ({one.by or f'{one.tests} tests pass'})")
        print(one.mutant.diff(sources[one.mutant.path]), flush=True)
    elif verbose:
        print(f"killed {one.mutant.name}: {one.by}", flush=True)


def summary(done: Sequence[Outcome]) -> int:
    """Print the counts by file; return how many were not killed."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in done:
        for name in (one.mutant.path, "all"):
            counts[name][one.kind] += 1
            counts[name]["limit"] += one.by.startswith("limit")
    for name, of_file in sorted(counts.items(), key=lambda one: (one[0] == "all", one[0])):
        parts = [f"{of_file['killed']} killed ({of_file['limit']} by the limit)"]
        parts += [f"{of_file[kind]} {kind}" for kind in ("survived", "unreached") if of_file[kind]]
        print(f"{name}: {', '.join(parts)}")
    return counts["all"]["survived"] + counts["all"]["unreached"]


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; without --seed a new seed."""
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description="Do the tests bite? (docs/reliability.md)"
    )
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants; 0: all")
    parser.add_argument("--seed", type=int, help="the same seed, the same mutants")
    parser.add_argument("--only", action="append", default=[], metavar="PATH[:LINE]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="copies at once")
    parser.add_argument("--most", type=float, default=MOST, help="CPU seconds of tests a mutant")
    parser.add_argument("--processes", action="store_true", help="try dear tests last")
    parser.add_argument("--verbose", action="store_true", help="show who killed which mutant")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 1 << 31)
    return options


def main() -> int:
    options = parse_options(sys.argv[1:])
    return 1 if mutate(ROOT, options, ROWS, PROCESSES if options.processes else {}) else 0


if __name__ == "__main__":
    sys.exit(main())
