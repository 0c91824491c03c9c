"""`audit cleanup` beside a reader: a session that goes meanwhile was not tampered with."""

from __future__ import annotations

import pytest
import sealed_session as made

from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.verify import bound_facts, log_check, session
from nono_trio.audit.verify.bound_facts import UNREADABLE
from nono_trio.audit.verify.many import verify_root
from nono_trio.audit.verify.session import verify
from nono_trio.cli.audit.verify import verify_all


@pytest.fixture
def directory(tmp_path):
    return made.build(tmp_path / "audit")


def remove_after(monkeypatch, owner, name, directory):
    """Have a function remove the session when it has been called once."""
    real = getattr(owner, name)
    removed = []

    def first(*arguments, **options):
        result = real(*arguments, **options)
        if not removed:
            removed.append(forget(directory.parent, directory.name))
        return result

    monkeypatch.setattr(owner, name, first)


STEPS = {"gather": session, "run": log_check.LogCheck}


@pytest.mark.parametrize("by_its_log", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_verify_says_that_it_was_removed(directory, monkeypatch, step, by_its_log):
    remove_after(monkeypatch, STEPS[step], step, directory)
    answer = verify(directory / "audit-events.ndjson" if by_its_log else directory)
    assert (answer.verdict, answer.first_bad, answer.exit_code) == ("unreadable", None, 2)
    assert answer.notes == [
        "it was removed on purpose (`audit forget`, `audit cleanup`); the ledger keeps its digest"
    ]
    assert answer.ledger.removed


@pytest.mark.parametrize("step", ["check_policy", "check_bound_summary", "check_files"])
def test_lists_and_exports_find_it_unreadable(directory, monkeypatch, step):
    remove_after(monkeypatch, bound_facts, step, directory)
    fault = bound_facts.look(directory, files=True).fault
    assert fault is None or fault.failure == UNREADABLE
    fault = bound_facts.look(directory).fault
    assert (fault.failure, "removed on purpose" in fault.got) == (UNREADABLE, True)


def test_one_that_goes_without_a_word_in_the_ledger_is_missing(directory):
    directory.rename(directory.with_name("elsewhere"))
    answer = verify(directory)
    assert (answer.verdict, answer.ledger.removed) == ("missing", False)
    assert bound_facts.look(directory).fault.failure != UNREADABLE


ALL = {
    "command": lambda root: verify_all(root, quick=False, jobs=1),
    "library": lambda root: verify_root(root, sessions_a_task=1),
}


@pytest.mark.parametrize("every", ALL)
def test_verify_all_says_nothing_of_one_that_is_removed_meanwhile(directory, every):
    made.build(directory.parent, "f" * 16)
    answers = ALL[every](directory.parent)
    next(answers)
    forget(directory.parent, directory.name)
    forget(directory.parent, "f" * 16)
    assert list(answers) == []


@pytest.mark.parametrize("every", ["command", "library"])
def test_verify_all_finds_one_that_is_sealed_meanwhile(directory, every):
    answers = ALL[every](directory.parent)
    next(answers)
    made.build(directory.parent, "f" * 16)
    assert [(one.session_id, one.verdict) for one in answers] == [("f" * 16, "verified")]
