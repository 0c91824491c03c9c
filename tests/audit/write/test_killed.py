"""SIGKILL before every call that changes a file, of a real seal and of real recoveries.

Whatever is left is `crashed` (or `verified`, where the work was done already), a recovery of it is
`verified`, and the ledger has one line for it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from checkout import SUPPORT
from killed_at import DAMAGED

from nono_trio.audit import ledger, store
from nono_trio.audit.archive.import_session import import_archive
from nono_trio.audit.recovery import abandoned
from nono_trio.audit.recovery.cleanup import Limits, choose, clean_up
from nono_trio.audit.recovery.ledger_repair import repair
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.audit.write import ledger_append
from nono_trio.cli.audit.verify import verify_all
from nono_trio.core.log.processes import decode_process

PROGRAM = SUPPORT / "killed_at.py"
KILL_SECONDS = 60


def killed(work, directory):
    """The directories of sessions that were killed at every call, in order."""
    done = subprocess.run(
        [sys.executable, PROGRAM, work, directory],
        capture_output=True, text=True, timeout=KILL_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    roots = sorted(directory.iterdir(), key=lambda path: int(path.name))
    return [path for root in roots for path in root.glob("audit/*") if path.is_dir()]


def assert_whole_lines(path):
    """Every line of a processes.ndjson is whole; a session may have none."""
    text = path.read_bytes() if path.exists() else b""
    assert text == b"" or text.endswith(b"\n")
    for line in text.splitlines():
        decode_process(line)


def test_a_start_killed_before_every_call_leaves_a_session_or_none(memory_path, monkeypatch):
    """A directory without its session.json was unreadable for ever."""
    monkeypatch.setattr(abandoned, "OLD_SECONDS", -1)
    found = killed("start", memory_path)
    assert len(found) > 12  # the calls were seen
    sessions = [path for path in found if store.is_session_id(path.name)]
    assert 1 < len(sessions) < len(found)
    for directory in sessions:
        assert verify(directory).verdict == "crashed"
        assert recover(directory).outcome == "recovered"
        assert verify(directory).verdict == "verified"
    for root in {path.parent for path in found} - {path.parent for path in sessions}:
        assert store.sessions(root) == []
        assert abandoned.remove_abandoned(root).removed == 1
        assert list(root.iterdir()) == []


def test_an_import_killed_before_every_call_is_whole_or_can_be_finished(memory_path, monkeypatch):
    monkeypatch.setattr(abandoned, "OLD_SECONDS", -1)
    killed("import", memory_path)
    tops = sorted(memory_path.iterdir(), key=lambda path: int(path.name))
    assert len(tops) > 40  # the calls were seen
    seen = set()
    for top in tops:
        root, path = top / "audit", top / "session.tar"
        told = [answer.verdict for answer in verify_all(root, quick=False, jobs=1)]
        assert told in ([], ["missing"], ["verified"])
        seen |= {*told}
        abandoned.remove_abandoned(root)
        left = [answer.verdict for answer in verify_all(root, quick=False, jobs=1)]
        assert left == (["verified"] if told else [])
        assert import_archive(path, root).verdict.verdict == "verified"
        assert [answer.verdict for answer in verify_all(root, quick=False, jobs=1)] == ["verified"]
        assert len([*ledger.read(root)]) == 1
        assert [one.name for one in root.iterdir() if one.is_dir()] == ["0123456789abcdef"]
    assert seen == {"missing", "verified"}


def test_a_clean_up_killed_before_every_call_is_no_tampering(memory_path, monkeypatch):
    """Before, the rest of the session's files was called tampered."""
    monkeypatch.setattr(abandoned, "OLD_SECONDS", -1)
    roots = {directory.parent for directory in killed("cleanup", memory_path)}
    assert len(roots) > 16  # the calls were seen
    for root in roots:
        told = sorted(answer.verdict for answer in verify_all(root, quick=False, jobs=1))
        assert told in (["crashed", "verified"], ["crashed"], ["verified"], [])
        abandoned.remove_abandoned(root)
        left = [*clean_up(root, choose(root, Limits(keep=0)), dry_run=False)]
        assert [one.outcome for one in left] == ["removed"] * len(told)
        assert [path.name for path in root.iterdir() if path.is_dir()] == []
        assert [*verify_all(root, quick=False, jobs=1)] == []
        lines = [one.session_id for one in ledger.read(root)]
        assert len(lines) == len(set(lines)) == 3


@pytest.mark.parametrize(
    ("work", "least"),
    [
        ("programs", 30), ("seal", 30), ("signed", 35), ("torn_everywhere", 45), ("empty", 30),
        ("without_files", 30),
        ("ended_only", 20), ("final_checkpoint", 10), ("in_the_ledger", 5),
    ],
)  # fmt: skip
def test_killed_before_every_call(memory_path, work, least):
    directories = killed(work, memory_path)
    assert len(directories) > least  # the calls were seen
    verdicts = []
    for number, directory in enumerate(directories):
        answer = verify(directory)
        assert answer.verdict in ("crashed", "verified"), (number, answer.first_bad)
        verdicts.append(answer.verdict)
        if work == "signed":
            assert answer.attestation.signature_verified, number
            assert answer.attestation.signed_through >= 2, number
        sealed = answer.verdict == "verified"
        assert recover(directory).outcome == ("sealed" if sealed else "recovered"), number
        answer = verify(directory)
        assert (answer.verdict, answer.first_bad) == ("verified", None), number
        assert_whole_lines(directory / store.PROCESSES)
        report = ledger.verify(directory.parent)
        assert (report.count, report.first_bad, report.torn_tail) == (1, None, False), number
        ended = store.read_summary(directory)
        assert ended is not None
        assert store.is_sealed(ended)
    assert verdicts[0] == "crashed"
    assert verdicts[-1] == "verified"  # this one was not killed
    assert verdicts == sorted(verdicts)  # once it is whole it stays whole


def test_a_repair_of_the_ledger_killed_before_every_call(memory_path):
    directories = killed("repair", memory_path)
    assert len(directories) > 8
    for number, directory in enumerate(directories):
        root = directory.parent
        repair(root)
        assert DAMAGED in (root / ledger_append.TORN).read_bytes(), number
        ledger_append.append(root, "next", "ab" * 32, "2026-07-02T11:48:52Z")
        report = ledger.verify(root)
        assert (report.first_bad, report.torn_tail) == (None, False), number
        assert set(report.digests) == {directory.name, "next"}, number
        assert verify(directory).verdict == "verified", number
