import json
from pathlib import Path

import pytest
from exported_lines import BARE, EXFILTRATION, FACTS, LINES, PROGRAM, record, request
from jsonschema import Draft202012Validator
from sealed_session import network

from nono_trio.core.export.ocsf import mapping

DATA = Path(__file__).parents[2] / "data" / "ocsf"


def open_to_more(schema):
    """A version that lacks an attribute ignores it; what it requires must hold."""
    if isinstance(schema, dict):
        return {
            key: open_to_more(value)
            for key, value in schema.items()
            if key != "additionalProperties"
        }
    return schema


def validators(version, *, strict):
    classes = json.loads((DATA / f"{version}.json").read_text())
    return {
        int(uid): Draft202012Validator(schema if strict else open_to_more(schema))
        for uid, schema in classes.items()
    }


def events_of(line, facts=FACTS, *, integrity=False):
    text = mapping.encode(line, facts, integrity=integrity).decode()
    return [json.loads(one) for one in text.splitlines()]


@pytest.mark.parametrize("version", ["1.3.0", "1.6.0", "1.8.0"])
def test_every_kind_of_line_is_valid_in_each_version(version):
    known = validators(version, strict=version == "1.8.0")
    seen = set()
    for facts in (FACTS, BARE):
        for line in LINES:
            for event in events_of(line, facts):
                seen.add(event["class_uid"])
                faults = [*known[event["class_uid"]].iter_errors(event)]
                assert not faults, (event, [fault.message for fault in faults])
                assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert seen == set(known)


def test_the_schemas_refuse_what_they_should():
    (event,) = events_of(record(network(1, "deny", "evil.test")))
    known = validators("1.8.0", strict=True)[4001]
    for key in ("metadata", "activity_id", "time"):
        assert not known.is_valid({name: event[name] for name in event if name != key})
    assert not known.is_valid(event | {"activity_id": 77})
    assert not known.is_valid(event | {"made_up": 1})


def test_ids_are_unique_and_those_of_the_record():
    for line in LINES:
        uids = [event["metadata"]["uid"] for event in events_of(line)]
        assert len({*uids}) == len(uids)
        assert all(uid.startswith(f"{FACTS.session_id}/") for uid in uids)


def test_a_denied_request_is_http_activity_with_the_program_and_no_query_value():
    (event,) = events_of(record(request("deny", "POST", "/a?key=s3cret"), programs=[PROGRAM]))
    assert (event["class_uid"], event["activity_id"], event["action_id"]) == (4002, 6, 2)
    assert event["http_request"]["url"]["query_string"] == "key=[REDACTED]"
    assert event["http_response"] == {"code": 403}
    assert event["actor"]["process"]["file"]["path"] == "/usr/bin/python3.11"


def test_an_allowed_request_is_http_activity_once_it_is_answered():
    (decision,) = events_of(record(request()))
    assert (decision["class_uid"], decision["activity_id"]) == (4001, 1)
    assert decision["url"]["path"] == "/a/b"
    answered = next(line for line in LINES if getattr(getattr(line, "flow", 0), "status", 0) == 200)
    (event,) = events_of(answered)
    assert (event["class_uid"], event["http_response"]) == (4002, {"code": 200, "latency": 12})
    assert event["traffic"] == {"bytes": 2100, "bytes_in": 2000, "bytes_out": 100}


def test_a_stand_in_that_left_is_a_finding_besides():
    line = record(request("deny", "POST", "/a", reason=EXFILTRATION), 8)
    refused, finding = events_of(line)
    assert (refused["class_uid"], refused["severity_id"]) == (4002, 5)
    assert finding["class_uid"] == 2004
    assert finding["metadata"]["uid"] == f"{FACTS.session_id}/8/finding"
    assert "raw_data" not in finding


def test_integrity_has_the_hashes_of_the_log_and_is_off_unless_asked():
    line = record(network(1, "allow", "a.test"), 4)
    (plain,) = events_of(line)
    assert "attestation" not in plain
    (event,) = events_of(line, integrity=True)
    attestation = event["attestation"]
    assert attestation["fingerprint"]["value"] == line.leaf_hash
    assert attestation["prev_event"]["uid"] == f"{FACTS.session_id}/3"
    assert attestation["authority_uid"] == FACTS.key_id
    assert "record_integrity" in event["metadata"]["profiles"]
    (first,) = events_of(LINES[0], integrity=True)
    assert "prev_event" not in first["attestation"]
