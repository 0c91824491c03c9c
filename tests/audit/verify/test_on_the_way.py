"""Sealed logs are verified while they are listed or shown, as far as size and time allow."""

from __future__ import annotations

import pytest
import sealed_session as made

from nono_trio.audit import store
from nono_trio.audit.ledger import LEDGER
from nono_trio.audit.verify import bound_facts, on_the_way
from nono_trio.audit.verify.on_the_way import ProofOnTheWay

MIDDLE = [made.network(number, "deny", "evil.test") for number in range(5)]


@pytest.fixture
def session(tmp_path):
    return made.build(
        tmp_path / "audit", payloads=[made.started(), *MIDDLE, made.ended()], counts=()
    )


def forge(session):
    """Change a record in the middle, which the bound facts do not look at."""
    log = session / store.LOG
    lines = log.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"evil.test", b"good.test")
    log.write_bytes(b"".join(lines))


def proved(session, **options):
    return ProofOnTheWay(session.parent, **options).prove(bound_facts.look(session))


def test_a_whole_session_is_proved(session):
    found = proved(session)
    assert (found.proved, found.fault) == (True, None)


def test_a_fault_in_the_middle_is_found(session):
    forge(session)
    assert bound_facts.look(session).fault is None
    found = proved(session)
    assert not found.proved
    assert found.fault.failure == "leaf hash mismatch"


def test_no_time_is_no_proof(session):
    found = proved(session, seconds=0)
    assert (found.proved, found.fault) == (False, None)


def test_a_long_log_is_not_proved(session, monkeypatch):
    monkeypatch.setattr(on_the_way, "PROVED_BYTES", 100)
    assert not proved(session).proved


def test_an_unsealed_session_is_not_proved(tmp_path):
    assert not proved(made.unsealed(tmp_path / "audit")).proved


def test_a_session_whose_ledger_can_not_be_read_is_not_proved(session):
    seen = bound_facts.look(session)
    (session.parent / LEDGER).unlink()
    (session.parent / LEDGER).mkdir()
    found = ProofOnTheWay(session.parent).prove(seen)
    assert (found.proved, found.fault) == (False, None)


def test_list_and_show_say_it(run, session):
    assert "sealed" in run("audit", "list")[1]
    assert "verified: its log" in run("audit", "show", session.name)[1]
    forge(session)
    assert "tampered" in run("audit", "list")[1]
    assert "tampered: `nono-trio audit verify" in run("audit", "show", session.name)[1]


def test_list_and_show_say_what_they_did_not_verify(run, session, monkeypatch):
    monkeypatch.setattr(on_the_way, "PROVED_BYTES", 100)
    assert "not verified" in run("audit", "list")[1]
    assert "not verified: `nono-trio" in run("audit", "show", session.name)[1]


def test_a_sealed_session_that_was_opened_with_another_end_is_not_called_crashed(tmp_path, run):
    """Every hash fits but the digest in the ledger, which only the whole log leads to."""
    payloads = [made.started(), *MIDDLE, made.ended()]
    sealed = made.build(tmp_path / "audit", payloads=payloads, counts=())
    forged = made.build(tmp_path / "forged", payloads=[*payloads[:3], made.ended()], counts=())
    opened = made.unsealed(tmp_path / "opened", payloads=payloads[:3], counts=())
    for name in (store.LOG, store.CHECKPOINTS, store.SUMMARY):
        (sealed / name).write_bytes((forged / name).read_bytes())
    (sealed / store.SESSION).write_bytes((opened / store.SESSION).read_bytes())
    assert bound_facts.look(sealed).fault is None
    assert proved(sealed).fault.failure == "sealed session opened again"
    assert "tampered" in run("audit", "list")[1]
    assert "status       tampered" in run("audit", "show", sealed.name)[1]
