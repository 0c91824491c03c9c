"""`audit verify --jobs`: the tasks of the processes, and what becomes of them at the end."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import archived
import pytest
import sealed_session as made

from nono_trio.audit import ledger
from nono_trio.audit.verify import worker_process
from nono_trio.cli.audit import verify
from nono_trio.errors import LogUnreadable

NAMES = [f"{number:016x}" for number in range(5)]


class Pool(Executor):
    """Runs each task at once; the process of one about `killed` is killed."""

    def __init__(self):
        self.killed, self.sizes, self.cancelled = "", [], None

    def __call__(self, *_):
        return self

    def submit(self, fn, /, *arguments, **options):
        sent, task = pickle.dumps((fn, arguments, options)), Future()
        self.sizes.append(len(sent))
        if self.killed and self.killed.encode() in sent:
            task.set_exception(BrokenProcessPool())
        else:
            fn, arguments, options = pickle.loads(sent)
            task.set_result(fn(*arguments, **options))
        return task

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.cancelled = cancel_futures


@pytest.fixture
def pool(root, monkeypatch):
    for name in NAMES:
        made.build(root, name)
    pool = Pool()
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", pool)
    monkeypatch.setattr(verify, "workers_find_this_package", lambda: True)
    return pool


def test_sessions_of_the_root_and_archives_are_answered_in_order(root, run, pool, tmp_path):
    archive = tmp_path / "session.tar"
    archive.write_bytes(archived.archive_of(root / NAMES[1]))
    targets = [NAMES[2], archive, NAMES[0], root / NAMES[4]]
    _, out, _ = run("audit", "verify", "--json", *targets)
    alone = [json.loads(line) for line in out.splitlines()]
    code, out, _ = run("audit", "verify", "--json", "--jobs", 2, *targets)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == alone
    assert len(pool.sizes) == 4


def test_the_ledger_is_read_once_and_is_in_no_task(run, pool, monkeypatch):
    read, report = [], ledger.readable_report
    monkeypatch.setattr(ledger, "readable_report", lambda root: read.append(root) or report(root))
    code, *_ = run("audit", "verify", "--all", "--jobs", 2)
    assert code == 0
    assert len(read) == 4  # by the listing, the tasks, the missing ones and the removed ones
    assert max(pool.sizes) < 400


@pytest.mark.parametrize("place", [Path, Path.as_uri])
def test_a_process_that_was_killed_is_one_sentence(root, pool, place):
    pool.killed = NAMES[1]
    answers = verify.verify_all(place(root), quick=False, jobs=2)
    with pytest.raises(LogUnreadable, match="a process that verified sessions was killed") as told:
        list(answers)
    assert told.value.hint == "verify with --jobs 1"


def test_what_has_not_begun_is_cancelled_at_the_end(root, pool):
    answers = verify.verify_all(root, quick=False, jobs=2)
    assert next(answers).verdict == "verified"
    assert pool.cancelled is None
    answers = None  # as Ctrl-C leaves it
    assert pool.cancelled


@pytest.mark.parametrize("are_used", [True, False])
def test_processes_that_start_early_are_used_and_gone_at_the_end(root, run, monkeypatch, are_used):
    directory, started = made.build(root, NAMES[0]), []

    class Watched(worker_process.WorkerProcess):
        def __init__(self):
            super().__init__()
            started.append(self.pid)

    monkeypatch.setattr(worker_process, "WorkerProcess", Watched)
    monkeypatch.setattr(worker_process, "LEAST_FOR_JOBS", 1)
    if are_used:
        monkeypatch.setattr("nono_trio.audit.verify.session.LEAST_BYTES", 1)
    for target in (directory, NAMES[0]):
        code, out, _ = run("audit", "verify", "--json", "--jobs", 3, target)
        assert (code, json.loads(out)["verdict"]) == (0, "verified")
    assert len(started) == 4
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    run("audit", "verify", "--jobs", 1, NAMES[0])
    run("audit", "verify", "--jobs", 3, "--quick", NAMES[0])
    assert len(started) == 4
