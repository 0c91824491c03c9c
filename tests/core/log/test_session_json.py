from __future__ import annotations

import json

import msgspec
import pytest
from vectors import VECTORS, load

from nono_trio.core.log import session_json as m
from nono_trio.core.log.ledger_record import ledger_chain_hash

DIGESTS = load("session_digests.json")


def read(name):
    return m.decode_metadata((VECTORS / name / "session.json").read_bytes())


@pytest.mark.parametrize("name", DIGESTS)
def test_session_digests_of_upstream(name):
    assert m.session_digest(read(name)) == DIGESTS[name]


@pytest.mark.parametrize("name", DIGESTS)
def test_session_json_of_upstream_survives_the_round_trip(name):
    original = (VECTORS / name / "session.json").read_bytes()
    assert m.encode_metadata(read(name)).rstrip() == original.rstrip()


def test_the_published_golden_vectors():
    vectors = load("audit_alpha_vectors.json")
    session = msgspec.convert(vectors["session_metadata"], m.SessionMetadata)
    record = vectors["ledger"]["record"]
    digest = m.session_digest(session)
    assert digest == record["session_digest"]
    chain = ledger_chain_hash(None, 0, session.session_id, digest, m.completed_at(session))
    assert chain == record["chain_hash"]


PROTECTED = {
    "session_id": "other",
    "started": "t",
    "ended": None,
    "command": [],
    "executable_identity": m.ExecutableIdentity(resolved_path="/x", sha256="00"),
    "tracked_paths": ["/x"],
    "snapshot_count": 9,
    "exit_code": 9,
    "merkle_roots": ["00"],
    "network_events": [],
    "audit_event_count": 99,
    "audit_integrity": None,
    "audit_attestation": m.AuditAttestation(
        predicate_type="p", key_id="k", public_key="p", bundle_filename="b"
    ),
    "command_policy_summary": {"x": 1},
}


@pytest.mark.parametrize("field", PROTECTED)
def test_every_protected_field_changes_the_digest(field):
    session = read("n8")
    before = m.session_digest(session)
    setattr(session, field, PROTECTED[field])
    assert m.session_digest(session) != before


def test_our_own_facts_do_not_change_the_digest():
    session = read("n5")
    session.nono_trio = m.NonoTrioFacts(status="sealed", name="x")
    assert m.session_digest(session) == DIGESTS["n5"]
    assert list(json.loads(m.encode_metadata(session)))[-1] == "nono_trio"


def test_fields_that_upstream_added_later_may_be_missing():
    old = {
        "session_id": "s",
        "started": "t",
        "ended": None,
        "command": ["x"],
        "tracked_paths": [],
        "snapshot_count": 0,
        "exit_code": None,
        "merkle_roots": [],
    }
    session = m.decode_metadata(json.dumps(old).encode())
    assert session.network_events == []
    assert session.audit_integrity is None


def test_a_summary_is_the_same_session():
    data = (VECTORS / "n8" / "session.json").read_bytes()
    summary, whole = m.decode_summary(data), m.decode_metadata(data)
    for field in summary.__struct_fields__:
        assert getattr(summary, field) == getattr(whole, field)


def test_checkpoint_lines_leave_out_what_is_not_there():
    checkpoint = m.Checkpoint(
        time="t",
        event_count=1,
        offset=425,
        chain_head="ab",
        merkle_root="cd",
        segment_xxh3="0123456789abcdef",
    )
    line = m.encode_checkpoint(checkpoint)
    assert line == (
        b'{"v":1,"time":"t","event_count":1,"offset":425,"chain_head":"ab","merkle_root":"cd",'
        b'"lost_total":0,"segment_xxh3":"0123456789abcdef","final":false}\n'
    )
    assert m.decode_checkpoint(line) == checkpoint


def test_a_checkpoint_of_another_version_is_refused():
    with pytest.raises(msgspec.ValidationError):
        m.decode_checkpoint(b'{"v":2}')


def test_facts_are_there_for_every_session():
    """A session.json of upstream has no facts of ours: all of them read as left out."""
    theirs = m.SessionMetadata(
        session_id="a", started="t", command=[], tracked_paths=[], merkle_roots=[]
    )
    for decode in (m.decode_metadata, m.decode_summary):
        found = decode(m.encode_metadata(theirs))
        assert (found.facts, found.is_ours) == (m.NonoTrioFacts(), False)
        found = decode(
            m.encode_metadata(msgspec.structs.replace(theirs, nono_trio=m.NonoTrioFacts()))
        )
        assert (found.facts, found.is_ours) == (m.NonoTrioFacts(), True)
    assert b"nono_trio" not in m.encode_metadata(theirs)
