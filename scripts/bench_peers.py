"""nono-trio's proxy against upstream's Rust proxy and others that are installed, interleaved;
intercepted requests against mitmproxy (bench_intercept.py); then start-up times.

docs/benchmarks.md describes each row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench_intercept import measure_intercepted
from bench_load import SCRIPTS, BenchmarkFailed, build_tools, limit_proxy, rust_proxy
from bench_others import other_proxies
from bench_page import write_page, write_peers
from bench_proxies import measure_proxies
from bench_report import Row, as_json, as_table
from bench_start import WALL, measure_start

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench_load import Proxy

LOAD, OTHERS, INTERCEPTED, START = "load", "others", "intercepted", "start"
PARTS: Final = (LOAD, OTHERS, INTERCEPTED, START)
PAGE: Final = SCRIPTS.parent / "docs" / "benchmarks.md"
ROUNDS, QUICK_ROUNDS = 7, 1
STARTS = 3  # of each command in a round: one is short


def tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def measure_part(part: str, tools: Path, state: Path, given: argparse.Namespace) -> list[Row]:
    """Return the rows of a part; `load` and `others` are one part if both are wanted."""
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    if part == INTERCEPTED:
        return measure_intercepted(tools, state, rounds, tell, quick=given.quick)
    if part == START:
        return measure_start(tools, state, rounds if given.quick else rounds * STARTS, tell)
    peers: list[AbstractContextManager[Proxy]] = []
    if part == LOAD:
        peers.append(rust_proxy())
    if OTHERS in given.parts:
        peers += [limit_proxy(tools), *other_proxies(tools, tell)]
    return measure_proxies(tools, state, peers, rounds, tell, quick=given.quick)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument(
        "--only", choices=PARTS, action="append", dest="parts",
        help="one part of the rows; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--write-docs", action="store_true", help="write tables and plots into docs/benchmarks.md"
    )
    given = parser.parse_args()
    given.parts = given.parts or PARTS
    return given


def main() -> int:
    given = parse_arguments()
    parts = [one for one in PARTS if one in given.parts]
    if LOAD in parts and OTHERS in parts:
        parts.remove(OTHERS)
    rows = []
    with tempfile.TemporaryDirectory(prefix="nono-trio-bench-") as root:
        tools, state = Path(root), Path(root) / "state"
        state.mkdir()
        try:
            build_tools(tools)
            for part in parts:
                measured = measure_part(part, tools, state, given)
                rows += measured
                if given.write_docs and part in (LOAD, OTHERS):
                    write_peers(PAGE, measured)
                elif given.write_docs and part == START:
                    # A wall time of a start says more about the machine than about us.
                    write_page(PAGE, part, [row for row in measured if row.unit != WALL])
                elif given.write_docs:
                    write_page(PAGE, part, measured)
        except (BenchmarkFailed, subprocess.TimeoutExpired) as error:
            tell(f"FAILED: {error}")
            return 1
    print(as_json(rows, quick=given.quick) if given.json else as_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
