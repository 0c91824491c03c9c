"""Many sessions over executors: threads, processes, and a Dask cluster of two processes."""

from __future__ import annotations

import ast
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import sealed_session as made
from checkout import ROOT

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.verify.many import Batch, verify_batch, verify_many, verify_root
from nono_trio.audit.verify.session import verify

NAMES = [f"{number:016x}" for number in range(6)]
[EXAMPLE] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "fleet.md").read_text(), re.S)


@pytest.fixture
def audit(tmp_path):
    """Six sessions: four good, one changed, one gone."""
    root = tmp_path / "audit"
    for name in NAMES:
        made.build(root, name)
    log = root / NAMES[1] / store.LOG
    log.write_bytes(log.read_bytes().replace(b"evil", b"good", 1))
    (root / NAMES[2]).rename(tmp_path / "elsewhere")
    return root


EXPECTED = dict.fromkeys(NAMES, "verified") | {NAMES[1]: "tampered", NAMES[2]: "missing"}


class Stalled(Executor):
    """Runs its first task; the others wait for ever."""

    def __init__(self):
        self.waiting = []

    def submit(self, fn, /, *arguments, **options):
        future = Future()
        if not self.waiting:
            future.set_result(fn(*pickle.loads(pickle.dumps(arguments)), **options))
        self.waiting.append(future)
        return future


def verdicts(answers):
    return {answer.session_id: answer.verdict for answer in answers}


def test_the_answers_are_those_of_one_at_a_time(audit):
    answers = [*verify_root(audit)]
    assert verdicts(answers) == EXPECTED
    for answer in answers:
        if answer.verdict != "missing":
            assert answer == verify(audit / answer.session_id)
        assert pickle.loads(pickle.dumps(answer)) == answer
    forget(audit, NAMES[0])  # on purpose: no session is missing for that
    assert verdicts(verify_root(audit)) == {
        name: verdict for name, verdict in EXPECTED.items() if name != NAMES[0]
    }


def test_over_processes(audit):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        assert verdicts(verify_root(str(audit), pool, sessions_a_task=2)) == EXPECTED
        batch = Batch(root=str(audit), sessions=("nothing",), call="one")
        assert [one.verdict for one in verify_many([batch], pool)] == ["unreadable"]
        killed = pool.submit(os.abort)  # its own error, and no answer
        with pytest.raises(BrokenProcessPool):
            [*verify_root(audit, pool)]
        assert isinstance(killed.exception(60), BrokenProcessPool)


def test_the_number_of_tasks_that_wait_is_bounded_and_they_are_cancelled(audit):
    executor, taken = Stalled(), []

    def batches():
        for name in NAMES[3:] * 20:
            taken.append(name)
            yield Batch(root=str(audit), sessions=(name,), call="one")

    answers = verify_many(batches(), executor, in_flight=4)
    assert next(answers).verdict == "verified"
    assert (len(executor.waiting), len(taken)) == (4, 5)  # there was no room for the fifth
    answers.close()
    assert [future.cancelled() for future in executor.waiting] == [False, True, True, True]


def test_a_ledger_is_read_once_for_a_call_and_again_for_the_next(audit, monkeypatch):
    read, verified = [], ledger.verify
    monkeypatch.setattr(ledger, "verify", lambda *given: read.append(given) or verified(*given))
    for name in NAMES[3:]:
        [answer] = verify_batch(Batch(root=str(audit), sessions=(name,), call="first"))
        assert answer.verdict == "verified"
    assert len(read) == 1
    (audit / ledger.LEDGER).write_bytes(b"")
    [answer] = verify_batch(Batch(root=str(audit), sessions=(NAMES[3],), call="second"))
    assert answer.verdict == "tampered"


def test_the_example_runs_on_a_dask_cluster(audit, tmp_path):
    example = tmp_path / "example.py"
    example.write_text(EXAMPLE)
    done = subprocess.run(
        [sys.executable, str(example), str(audit.parent)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # Dask leaves a directory there
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert ast.literal_eval(lines[-1]) == {"verified": 4, "tampered": 1, "missing": 1}
    assert sorted(line.split()[0] for line in lines[:-1]) == ["missing", "tampered"]
