"""Proofs of records and of growth: what holds, and what is refused by name."""

from __future__ import annotations

import itertools
import shutil

import pytest
import signed_session as signed

from nono_trio.audit import store
from nono_trio.audit.verify import proofs
from nono_trio.core.proof.accumulator import EMPTY_ROOT
from nono_trio.core.proof.proof_file import MAX_PROOF
from nono_trio.errors import LogUnreadable, UsageError

KEY = signed.signer()
NOTE_KEY = KEY.public.note


@pytest.fixture
def session(root):
    return signed.sealed(root, KEY)


def failure(call, *arguments):
    with pytest.raises(proofs.ProofFailed) as caught:
        call(*arguments)
    return caught.value.failure


def test_each_record_is_proved_by_its_file_alone(session):
    for sequence in range(10):
        found = proofs.check_record(proofs.prove_record(session, sequence).encode(), NOTE_KEY)
        assert (found.session_id, found.sequence, found.size) == (session.name, sequence, 10)
    assert b'"session_ended"' in found.event_json


def test_every_changed_byte_of_a_proof_is_refused(session):
    data = proofs.prove_record(session, 4).encode()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises((proofs.ProofFailed, LogUnreadable)):
            proofs.check_record(bytes(changed), NOTE_KEY)
        with pytest.raises((proofs.ProofFailed, LogUnreadable)):
            proofs.check_record(data[:place], NOTE_KEY)
    for tail in (b"\n", b"x", data):
        with pytest.raises((proofs.ProofFailed, LogUnreadable)):
            proofs.check_record(data + tail, NOTE_KEY)


def test_a_proof_under_another_key_or_about_another_record(session):
    proof = proofs.prove_record(session, 4)
    other = signed.signer("other").public.note
    assert failure(proofs.check_record, proof.encode(), other) == "key mismatch"
    moved = proof._replace(leaf_index=5)
    assert failure(proofs.check_record, moved.encode(), NOTE_KEY) == "inclusion mismatch"
    with pytest.raises(LogUnreadable, match="which has the record"):
        proofs.check_record(proof._replace(extra=None).encode(), NOTE_KEY)


def test_what_can_not_be_proved(root, session, tmp_path):
    with pytest.raises(UsageError, match="from 0 to 9"):
        proofs.prove_record(session, 10)
    with pytest.raises(UsageError, match="no signed checkpoint"):
        proofs.prove_record(signed.sealed(tmp_path / "plain"), 0)
    log = session / store.LOG
    data = log.read_bytes()
    log.write_bytes(data.replace(b"443", b"444"))
    assert failure(proofs.prove_record, session, 0) == "trees disagree"
    log.write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])
    assert failure(proofs.prove_record, session, 0) == "truncated behind a signed checkpoint"
    log.write_bytes(b"x" + data)
    with pytest.raises(LogUnreadable, match="line 1"):
        proofs.prove_record(session, 0)


def test_a_log_that_grew_and_one_that_did_not(root, session, tmp_path):
    heads = [*proofs.signed_heads(session)]
    for old, new in itertools.pairwise(heads):
        assert signed.extends(old, new, proofs.prove_extension(old, new, session))
    assert failure(proofs.prove_extension, heads[-1], heads[0], session) == "rollback"
    other = signed.sealed(tmp_path / "fork", KEY)  # two histories of one origin under one key
    forked = [*proofs.signed_heads(other)]
    assert failure(proofs.prove_extension, heads[1], forked[-1], other) == "fork"
    assert failure(proofs.prove_extension, heads[-1], forked[-1], other) == "fork"
    elsewhere = signed.sealed(tmp_path / "other", KEY, session_id="fedcba9876543210")
    head = proofs.last_signed_head(elsewhere)
    assert failure(proofs.prove_extension, heads[0], head, elsewhere) == "another log"


def test_every_log_continues_the_empty_one_and_no_other_root_of_no_records(session):
    last = proofs.last_signed_head(session)
    empty = last._replace(head=last.head._replace(size=0, root=EMPTY_ROOT))
    assert proofs.prove_extension(empty, last, session) == []
    other = empty._replace(head=empty.head._replace(root=b"\1" * 32))
    assert failure(proofs.prove_extension, other, last, session) == "fork"


def test_a_kept_checkpoint_is_read_in_each_form(session, tmp_path):
    last = proofs.last_signed_head(session)
    proof, note = tmp_path / "proof", tmp_path / "note"
    proof.write_bytes(proofs.prove_record(session, 1).encode())
    note.write_bytes(last.data)
    for path in (proof, note, session / store.CHECKPOINTS):
        assert proofs.read_head(path) == last
    for path in (session / store.LOG, session / store.POLICY):
        with pytest.raises(LogUnreadable):
            proofs.read_head(path)
    with note.open("r+b") as file:
        file.truncate(MAX_PROOF + 1)  # a sparse file: no disk space, but as much memory
    with pytest.raises(OSError, match="expected at most"):
        proofs.read_head(note)


def test_two_copies_of_a_ledger(root, session, tmp_path):
    ledger = root / "ledger.ndjson"
    old = shutil.copy(ledger, tmp_path / "old.ndjson")
    signed.sealed(root, KEY, session_id="fedcba9876543210")
    old = tmp_path / "old.ndjson"
    assert proofs.is_ledger_file(old)
    assert proofs.prove_ledger_extension(old, ledger) == (1, 2)
    assert failure(proofs.prove_ledger_extension, ledger, old) == "rollback"
    old.write_bytes(ledger.read_bytes().replace(b"sequence", b"Sequence", 1))
    assert failure(proofs.prove_ledger_extension, old, ledger) == "fork"


@pytest.mark.parametrize("planted", ["directory", "file"])
def test_what_lies_under_the_sessions_name_where_the_command_is_called_is_not_it(
    session, run, tmp_path, monkeypatch, planted
):
    """The caged command may write there, and knows the session's id."""
    kept = tmp_path / "kept.note"
    kept.write_bytes(next(proofs.signed_heads(session)).data)
    workplace = tmp_path / "work"
    workplace.mkdir()
    if planted == "directory":
        shutil.copytree(session, workplace / session.name)
        (workplace / session.name / store.LOG).write_bytes(b"")
    else:
        (workplace / session.name).write_bytes(b"no checkpoint")
    monkeypatch.chdir(workplace)
    code, out, _ = run("audit", "consistency", kept, session.name)
    assert (code, out.split()[0]) == (0, "consistent:")
