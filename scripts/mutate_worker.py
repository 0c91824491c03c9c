"""The process that runs tests for scripts/mutate: it imports pytest once and forks for each run.

It reads one JSON object a line from stdin and answers with one. It must never import the project
itself: each forked child imports the copy that it is in, with the mutant. All that a child leaves
behind is killed, also what has left its group: this process is a subreaper.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = "nono_trio"
NOT_THE_COPY = 99  # exit code: the tests imported another checkout
NOTHING_RUN = 5  # pytest's own: no test was collected
_PRELOADED = (
    "hypothesis", "hypothesis.strategies", "trio", "trio.testing", "trio_util", "msgspec", "click",
    "h11", "h2.connection", "idna", "xxhash", "ahocorasick_rs", "publicsuffixlist", "asyncio",
    "ssl", "http.server", "cryptography.x509", "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.hazmat.primitives.serialization", "concurrent.futures.process", "multiprocessing",
)  # fmt: skip
_SET_CHILD_SUBREAPER = 36
_LEFT_BEHIND_ROUNDS = 100


class Chosen:
    """Runs the tests of `ids` in their order, or all for an empty list. Notes the first failure."""

    def __init__(self, ids: list[str]) -> None:
        self._places = {one: number for number, one in enumerate(ids)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        # conftest.py has loaded its profile. No search for a small example: one is enough.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", deadline=None, database=None, phases=phases)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._places:
            items[:] = [one for one in items if one.nodeid in self._places]
            items.sort(key=lambda one: self._places[one.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            cause = str(report.longrepr).rstrip().rpartition("\n")[2]
            self.failed = f"{report.nodeid} at import: {cause}"


class Reach:
    """Notes for each test which functions of the package it calls, and its CPU time."""

    def __init__(self, root: Path) -> None:
        self._package = f"{root / PACKAGE}{os.sep}"
        self._start = len(f"{root}{os.sep}")
        self._codes: set[object] = set()
        self._failed: set[str] = set()
        self.tests: dict[str, dict[str, object]] = {}

    def _called(self, frame, _event, _argument) -> None:
        self._codes.add(frame.f_code)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self._codes.clear()
        began = time.process_time()  # of a busy machine, too
        threading.settrace(self._called)
        sys.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            seconds = time.process_time() - began
            self.tests[item.nodeid] = {
                "seconds": seconds,
                "called": self._found(),
                "passed": item.nodeid not in self._failed,
            }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self._failed.add(report.nodeid)

    def _found(self) -> list[tuple[str, int]]:
        names = {(one.co_filename, one.co_firstlineno) for one in list(self._codes)}
        return sorted(
            (name[self._start :], line) for name, line in names if name.startswith(self._package)
        )


def run_tests(request: dict, result: Path) -> int:
    """Run the tests in this forked child; the exit code is pytest's."""
    copy, scratch = Path(request["copy"]), Path(request["scratch"])
    _enter(copy, scratch, request)
    chosen = Chosen(request["ids"])
    plugins: list[object] = [chosen]
    reach = Reach(copy) if request["reach"] else None
    if reach is not None:
        plugins.append(reach)
    options = [
        "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "--tb=short",
        f"--basetemp={scratch / 'tests'}", f"--hypothesis-seed={request['seed']}",
    ]  # fmt: skip
    code = pytest.main([*options, *([] if reach else ["-x"]), *request["files"]], plugins)
    if any(map(_is_of_checkout, sys.modules.values())):
        return NOT_THE_COPY
    said = {"failed": chosen.failed, "tests": reach.tests if reach else {}}
    result.write_text(json.dumps(said))
    return int(code)


def _is_of_checkout(module: ModuleType) -> bool:
    """True for a module of the checkout that was copied, which may have changed since."""
    file = str(getattr(module, "__file__", None) or "")
    checkout = f"{sys.argv[1]}{os.sep}"
    return file.startswith(checkout) and not file.startswith((f"{checkout}.venv", __file__))


def _enter(copy: Path, scratch: Path, request: dict) -> None:
    """Make the child's world: directory, group, limits, an empty home."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cpu = int(request["cpu"])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    for name in ("tests", "home", "tmp"):
        (scratch / name).mkdir(parents=True)
    os.environ |= {"HOME": str(scratch / "home"), "TMPDIR": str(scratch / "tmp")}
    os.environ |= {"PYTHONPATH": str(copy), "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "kept")}
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "PYTEST_ADDOPTS"):
        os.environ.pop(name, None)
    output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    if PACKAGE in sys.modules:
        raise AssertionError("the worker has imported the project")


def answer(request: dict) -> dict:
    """Run the tests in a child that is bounded in time; return what came of it."""
    scratch = Path(request["scratch"])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    result = scratch / "result.json"
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException):
            code = run_tests(request, result)
        os._exit(code)
    handle = os.pidfd_open(child)
    ended = select.select([handle], [], [], request["seconds"])[0]
    if not ended:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    status = os.waitpid(child, 0)[1]
    _end_what_is_left(child)
    said = {"code": os.waitstatus_to_exitcode(status), "in_time": bool(ended)}
    said["seconds"] = time.monotonic() - began
    said |= json.loads(result.read_text()) if result.exists() else {"failed": "", "tests": {}}
    output = scratch / "output"
    said["output"] = output.read_bytes()[-4000:].decode(errors="replace") if output.exists() else ""
    shutil.rmtree(scratch, ignore_errors=True)
    return said


def _end_what_is_left(group: int) -> None:
    """Kill the child's group, and what it left to this process, until nothing is left."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    for _ in range(_LEFT_BEHIND_ROUNDS):
        pids = [int(one) for one in children.read_text().split()]
        if not pids:
            return
        for pid in pids:  # unreaped children of our own: no other process can have the number
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
