"""Copies of the checkout in which mutants are tried, each with a worker process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from mutate_operators import Mutant

MEMORY = 4 << 30  # bytes of address space of each process
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.svg")
_FIRST_TIME = 1_000_000_000  # seconds: modification times of mutants, each has one of its own


class Copy:
    """One copy. Not for two threads at once."""

    def __init__(self, checkout: Path, directory: Path) -> None:
        self.root = directory / "checkout"
        self._scratch = directory / "scratch"
        shutil.copytree(checkout, self.root, ignore=_LEFT_OUT, symlinks=True)
        self._times = _FIRST_TIME
        worker = Path(__file__).with_name("mutate_worker.py")
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each mutant compiles all
        self._worker = subprocess.Popen(
            [sys.executable, "-P", str(worker), str(checkout)], text=True, cwd=directory,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment,
        )  # fmt: skip

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._worker.stdin.close()
        self._worker.wait()
        self._worker.stdout.close()

    def run(self, files: Sequence[str], ids: Sequence[str] = (), *, reach: bool = False,
            cpu: float, seconds: float, seed: int) -> dict:  # fmt: skip
        """Run the tests `ids` of the files (all without ids) and return the worker's answer.
        They are killed after `cpu` seconds of one process' CPU time, or `seconds`."""
        request = {
            "copy": str(self.root), "scratch": str(self._scratch), "files": list(files),
            "ids": list(ids), "reach": reach, "cpu": cpu, "seconds": seconds, "seed": seed,
            "memory": MEMORY,
        }  # fmt: skip
        self._worker.stdin.write(json.dumps(request) + "\n")
        self._worker.stdin.flush()
        line = self._worker.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended with {self._worker.wait()}")
        return json.loads(line)

    def put(self, mutant: Mutant) -> None:
        """Write the mutant into the copy."""
        path = self.root / mutant.path
        self._write(path, mutant.applied(path.read_bytes()))

    def restore(self, mutant: Mutant, source: bytes) -> None:
        """Write the original again."""
        self._write(self.root / mutant.path, source)

    def _write(self, path: Path, data: bytes) -> None:
        # Python takes a compiled file if size and second fit: each content has its own second.
        self._times += 1
        path.write_bytes(data)
        os.utime(path, (self._times, self._times))
