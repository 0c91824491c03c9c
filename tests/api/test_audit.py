"""`nono_trio.api.audit` over sessions on disk: it says what the commands say."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sealed_session as made
import signed_session

from nono_trio.api import audit
from nono_trio.audit import store
from nono_trio.audit.archive.write import write_archive
from nono_trio.errors import LogUnreadable, UsageError

ID = "00000000000000aa"
OTHER = "00000000000000bb"


@pytest.fixture
def state(tmp_path):
    """Two sessions, and the ledger of both."""
    for name in (ID, OTHER):
        made.build(tmp_path / "audit", name)
    return tmp_path


def verdict(state, session):
    return audit.verify(session, audit_dir=state).verdict


def test_sessions_by_what_their_logs_bind(state):
    found = {one.session_id: one for one in audit.sessions(state)}
    assert found.keys() == {ID, OTHER}
    one = audit.find_session(ID, audit_dir=state)
    assert found[ID] == one == audit.find_session(one.directory)
    assert (one.status, one.directory) == ("sealed", state / "audit" / ID)
    (one.directory / store.SUMMARY).write_text("{}")
    assert audit.find_session(ID, audit_dir=state).status == "tampered"
    assert [*audit.sessions(state / "nothing")] == []


def test_records_and_decisions(state):
    every = [*audit.records(ID, audit_dir=state)]
    assert [one.sequence for one in every] == [*range(len(every))]
    assert every == [*audit.records(state / "audit" / ID / store.LOG)]
    network = [one for one in every if isinstance(one.event, audit.Network)]
    decisions = [*audit.decisions(ID, audit_dir=state)]
    assert len(decisions) == len(network) - 2  # those that bind policy.json and summary.json
    assert {one.sequence for one in decisions} < {one.sequence for one in network}


def test_verdicts(state):
    assert verdict(state, ID) == verdict(state, state / "audit" / ID) == "verified"
    log = state / "audit" / OTHER / store.LOG
    log.write_bytes(log.read_bytes().replace(b"evil", b"good", 1))
    assert verdict(state, OTHER) == "tampered"
    assert audit.verify(OTHER, audit_dir=state).first_bad is not None
    for missing in ("nothing", "/nothing/at/all", Path("/nothing/at/all"), "s3://"):
        assert verdict(state, missing) == "unreadable"
    (state / "audit" / ID).rename(state / "elsewhere")
    assert verdict(state, ID) == "missing"  # the ledger knows it
    for executor in (None, ThreadPoolExecutor(2)):
        found = {one.session_id: one.verdict for one in audit.verify_all(state, executor)}
        assert found == {ID: "missing", OTHER: "tampered"}
    made.build(state / "audit", "00000000000000cc")
    with pytest.raises(UsageError, match="expected one session"):
        audit.verify("0", audit_dir=state)


def test_whole_directories_by_url(state):
    url = state.as_uri()
    assert {one.verdict for one in audit.verify_all(url)} == {"verified"}
    assert audit.verify(f"{url}/audit/{ID}").verdict == "verified"


def test_a_url_where_only_a_directory_will_do():
    for call in (audit.sessions, audit.search):
        with pytest.raises(UsageError, match="expected a directory, got the URL s3://archive"):
            next(call("s3://archive"))


def test_a_file_that_can_not_be_opened_has_a_verdict(state, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("nono_trio.audit.archive.unpack.open_regular", refuse)
    named = state / "session.tar"
    named.write_bytes(b"no log")
    assert audit.verify(named).verdict == "crashed"  # the file itself was readable after all


def test_an_archive_and_its_url(state):
    archive = state / "session.tar"
    with archive.open("wb") as file:
        write_archive(state / "audit" / ID, file)
    for named in (archive, str(archive), archive.as_uri()):
        answer = audit.verify(named)
        assert (answer.verdict, answer.session_id) == ("verified", ID)
    archive.write_bytes(archive.read_bytes().replace(b"evil", b"good", 1))
    assert audit.verify(archive).verdict == "tampered"


def test_a_search(state):
    [first, *_] = audit.decisions(ID, audit_dir=state)
    host = first.event.target
    found = [*audit.search(state, host=host, session=ID)]
    assert found[0].record.sequence == first.sequence
    assert {one.session_id for one in audit.search(state, host=host)} == {ID, OTHER}
    assert [*audit.search(state, host=host, until=datetime(1990, 1, 1, tzinfo=UTC))] == []
    with pytest.raises(UsageError, match="since: expected a time with a zone"):
        next(audit.search(state, since=datetime(2026, 1, 1)))
    log = state / "audit" / OTHER / store.LOG
    log.unlink()
    log.mkdir()
    seen = []
    with pytest.raises(LogUnreadable, match="1 session can't be read: 00000000000000bb"):
        seen += audit.search(state, host=host)
    report = audit.SearchReport()
    assert [*audit.search(state, host=host, report=report)]
    assert report.unreadable.named == [OTHER]


def test_a_proof_and_the_keys_that_it_needs(tmp_path):
    signer = signed_session.signer()
    directory = signed_session.sealed(tmp_path / "audit", signer)
    keys = signer.public.pem().encode()
    assert audit.verify(directory, public_keys=keys).verdict == "verified"
    proof = audit.prove(directory, 1)
    assert audit.check_proof(proof, keys).sequence == 1
    with pytest.raises(audit.ProofFailed):
        audit.check_proof(proof, signed_session.signer("two").public.pem().encode())
    with pytest.raises(LogUnreadable):
        audit.check_proof(b"nothing", keys)
    for refused in (b"", b"\xff", keys[:50]):
        with pytest.raises(UsageError, match="public_keys"):
            audit.check_proof(proof, refused)
    with pytest.raises(UsageError, match="expected a sequence"):
        audit.prove(directory, 10_000)


@pytest.mark.parametrize("session", ["nothing", Path("/nothing"), "latest"])
def test_a_session_that_is_not_there(tmp_path, session):
    for call in (audit.find_session, audit.follow):
        with pytest.raises(LogUnreadable):
            call(session, audit_dir=tmp_path)
    for read in (audit.decisions, audit.records):
        with pytest.raises(LogUnreadable):
            next(read(session, audit_dir=tmp_path))


SESSION_CALLS = {
    "find_session": audit.find_session,
    "records": lambda session, **at: [*audit.records(session, **at)],
    "decisions": lambda session, **at: [*audit.decisions(session, **at)],
    "follow": audit.follow,
    "verify": audit.verify,
    "prove": lambda session, **at: audit.prove(session, 0, **at),
    "search": lambda session, audit_dir: [
        *audit.search(audit_dir, session=[] if session is None else session)
    ],
}


@pytest.mark.parametrize("call", SESSION_CALLS)
def test_a_session_of_another_type_is_named(state, call):
    for session in (5, None, b"x", ["a"]):
        with pytest.raises(UsageError, match="session: expected str or Path, got"):
            SESSION_CALLS[call](session, audit_dir=state)
    for directory in (5, b"x", "a\0b"):
        with pytest.raises(UsageError, match="audit_dir: expected"):
            SESSION_CALLS[call](ID, audit_dir=directory)


@pytest.mark.parametrize(
    "values",
    [
        {"host": 5}, {"path": b"x"}, {"program": ["a"]}, {"decision": "maybe"},
        {"decision": ["deny"]}, {"since": "today"}, {"until": 5}, {"newest": 0}, {"newest": "1"},
        {"report": 5},
    ],
)  # fmt: skip
def test_values_that_no_search_can_have_are_named(state, values):
    [name] = values
    with pytest.raises(UsageError, match=f"{name}: expected"):
        next(audit.search(state, **values))


def test_other_arguments_of_another_type_are_named(state):
    for keys in (5, "text", ["a"]):
        with pytest.raises(UsageError, match="public_keys: expected bytes"):
            audit.verify(ID, audit_dir=state, public_keys=keys)
    for processes in (0, -1, "2", 1.5):
        with pytest.raises(UsageError, match="processes: expected"):
            audit.verify(ID, audit_dir=state, processes=processes)
    for proof in (None, "text"):
        with pytest.raises(UsageError, match="proof: expected bytes"):
            audit.check_proof(proof, b"")
    with pytest.raises(UsageError, match="sequence: expected int"):
        audit.prove(ID, "1", audit_dir=state)
    with pytest.raises(UsageError, match="executor: expected one of"):
        next(audit.verify_all(state, 5))


@pytest.mark.parametrize("url", ["s3://", "s3:///", "http://store.example/x", "file://"])
def test_a_url_of_no_store_is_refused_and_not_verified_as_an_empty_one(url):
    with pytest.raises(UsageError, match=r"expected .*, got"):
        next(audit.verify_all(url))
