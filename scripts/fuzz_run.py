"""Fuzz the readers of what hostile peers send: one target after the other, each for a bounded time.

    scripts/fuzz [--target NAME]... [--seconds N] [--engine auto|atheris|own] [--corpus DIR]
    scripts/fuzz --target NAME FILE...     run saved inputs once: the way to reproduce a crasher

Two engines. atheris (libFuzzer) is guided by coverage; it is used if .venv has it. The other one is
our own loop of seeded mutations, which keeps each input that has an outcome of a new kind. A
violation ends its target: the input is made small, saved beside the corpus, and named with the
command that reproduces it. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz_engine import MEMORY, Mutator, Violation, run_once, shrunk

if TYPE_CHECKING:
    from fuzz_engine import Target

SECONDS = 5
SHRINK_SECONDS = 20.0
LONGEST = 64 * 1024  # bytes of an input
HANG_SECONDS = 20  # by libFuzzer, which also stops what Python can't interrupt
MOST_KEPT = 4000  # inputs of one target in the memory of our own loop
_UNITS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERAGE = re.compile(r"\bcov: (\d+)")


def known_targets() -> dict[str, Target]:
    """All targets by name. Late: atheris must see the imports of what it measures."""
    import fuzz_connections
    import fuzz_http2
    import fuzz_parsers
    import fuzz_texts

    modules = (fuzz_parsers, fuzz_texts, fuzz_http2, fuzz_connections)
    return {target.name: target for module in modules for target in module.TARGETS}


def default_corpus() -> Path:
    """A directory outside of the checkout that outlives the run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "nono-trio-fuzz"


def own_loop(target: Target, corpus: Path, seconds: float, seed: int) -> tuple[int, bytes | None]:
    """Run our own engine; return how many inputs it tried, and the one that broke the property."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    rng = random.Random(seed)
    kept = [*target.seeds, *(path.read_bytes() for path in sorted(corpus.iterdir()))]
    seen: set[str] = set()
    mutator = Mutator(rng, target.tokens)
    ends = time.monotonic() + seconds
    count = 0
    pending = list(kept)
    while time.monotonic() < ends:
        data = pending.pop() if pending else mutator.mutate(kept)[:LONGEST]
        count += 1
        try:
            outcome = run_once(target, data)
        except Violation as violation:
            print(violation, file=sys.stderr)
            return count, data
        if outcome not in seen:
            seen.add(outcome)
            if len(kept) < MOST_KEPT:
                kept.append(data)
            (corpus / f"{len(seen):05}-{seed:08x}").write_bytes(data)
    return count, None


def atheris_loop(
    target: Target, corpus: Path, crashes: Path, seconds: float, seed: int
) -> tuple[int, str, bytes | None]:
    """Run libFuzzer in a process of its own; return inputs tried, coverage, and a bad input."""
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number:03}").write_bytes(data)
    words = corpus.parent / f"{target.name}.dict"
    words.write_text("".join(f'"{_quoted(one)}"\n' for one in (*target.tokens, b"\0")))
    before = {*crashes.iterdir()}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", target.name, "--", str(corpus),
         f"-max_total_time={max(1, round(seconds))}", f"-seed={seed or 1}", f"-dict={words}",
         f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY >> 20}", f"-max_len={LONGEST}",
         f"-artifact_prefix={crashes}/", "-print_final_stats=1"],
        capture_output=True, text=True, check=False, errors="replace",
        timeout=seconds + 20 * HANG_SECONDS, cwd=Path(__file__).parent,
    )  # fmt: skip
    found = _UNITS.search(done.stderr)
    coverage = [*_COVERAGE.finditer(done.stderr)]
    bad = None
    for path in sorted({*crashes.iterdir()} - before):
        bad = path.read_bytes()
        path.unlink()
    if done.returncode and bad is None:
        raise SystemExit(f"{target.name}: atheris failed:\n{done.stderr[-2000:]}")
    return int(found[1]) if found else 0, coverage[-1][1] if coverage else "?", bad


def _quoted(token: bytes) -> str:
    return "".join(
        chr(one) if 32 <= one < 127 and one not in b'"\\' else f"\\x{one:02x}" for one in token
    )


def worker(name: str, arguments: list[str]) -> None:
    """Be libFuzzer's process."""
    import atheris

    with atheris.instrument_imports(include=["nono_trio", "h2", "hpack"]):
        target = known_targets()[name]

    def one_input(data: bytes) -> None:
        run_once(target, data)

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


def fuzz(target: Target, options: argparse.Namespace) -> bool:
    """Fuzz one target and say what came of it; return whether its property held."""
    corpus, crashes = options.corpus / target.name, options.corpus / "crashes" / target.name
    for directory in (corpus, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    coverage = ""
    if options.engine == "atheris":
        count, edges, bad = atheris_loop(target, corpus, crashes, options.seconds, options.seed)
        coverage = f", {edges} edges"
    else:
        count, bad = own_loop(target, corpus, options.seconds, options.seed)
    rate = count / max(time.monotonic() - began, 0.001)
    print(f"{target.name}: {count} inputs, {rate:.0f} a second{coverage}, corpus {corpus}")
    if bad is None:
        return True
    small, said = shrunk(target, bad, SHRINK_SECONDS)
    path = crashes / f"{options.seed:08x}"
    path.write_bytes(small)
    print(f"{target.name}: VIOLATION, {len(small)} bytes: {small[:200]!r}\n{said}")
    print(f"  reproduce: scripts/fuzz --target {target.name} {shlex.quote(str(path))}")
    return False


def reproduce(target: Target, path: Path) -> bool:
    """Run one saved input; return whether the property holds for it."""
    try:
        print(f"{path}: {run_once(target, path.read_bytes())}")
    except Violation as violation:
        print(f"{path}: VIOLATION\n{violation}")
        return False
    return True


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Fuzz what hostile peers can send (docs/fuzzing.md)."
    )
    parser.add_argument("--target", action="append", default=[], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each target")
    parser.add_argument("--engine", choices=("auto", "atheris", "own"), default="auto")
    parser.add_argument("--corpus", type=Path, default=default_corpus(), metavar="DIR")
    parser.add_argument("--seed", type=int, default=None, help="the same seed, the same inputs")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("file", nargs="*", type=Path, help="inputs to run once")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 1 << 31)
    if options.engine == "auto":
        options.engine = "atheris" if importlib.util.find_spec("atheris") else "own"
    if options.file and len(options.target) != 1:
        parser.error("name the one target of these files with --target")
    return options


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[4:])
        return 0
    options = parse_options(sys.argv[1:])
    targets = known_targets()
    unknown = [name for name in options.target if name not in targets]
    if unknown:
        raise SystemExit(f"unknown target {unknown[0]!r}; known are: {', '.join(targets)}")
    if options.list:
        for target in targets.values():
            print(f"{target.name:18} {target.about}")
        return 0
    chosen = [targets[name] for name in options.target] or [*targets.values()]
    if options.file:
        held = [reproduce(chosen[0], path) for path in options.file]
        return 0 if all(held) else 1
    print(f"engine {options.engine}, seed {options.seed}")
    held = [fuzz(target, options) for target in chosen]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
