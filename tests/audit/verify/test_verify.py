"""Verdicts of `verify` on whole sessions, upstream's vectors, hostile JSON and large logs."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import msgspec
import pytest
import sealed_session as made
from sealed_session import change_session, log_of
from vectors import LOGS, VECTORS, load

from nono_trio.audit import store
from nono_trio.audit.verify import chain as chains
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.verdict import worst
from nono_trio.core.log.record import encode_record
from nono_trio.core.log.session_json import NonoTrioFacts

NEGATIVE = load("negative", "verdicts.json")
# The verdict of upstream's verifier, and our name for it.
CLASSES = {
    "sequence mismatch": "sequence mismatch",
    "Failed to parse": "parse error",
    "event JSON mismatch": "event JSON mismatch",
    "chain hash mismatch": "chain hash mismatch",
    "missing canonical event_json": "parse error",
}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def session(root):
    return made.build(root, flows=[made.flow(2)])


def upstream_session(tmp_path, log, name="n5"):
    """A session directory as upstream leaves it, with another log in it."""
    directory = tmp_path / "upstream"
    directory.mkdir()
    shutil.copy(VECTORS / name / "session.json", directory)
    shutil.copy(log, directory / store.LOG)
    return directory


# -- what is whole --------------------------------------------------------------------------------


def test_a_sealed_session_is_verified(session):
    answer = verify(session)
    assert (answer.verdict, answer.exit_code, answer.first_bad) == ("verified", 0, None)
    assert (answer.event_count, answer.sealed, answer.notes) == (7, True, [])
    assert answer.chain_head == answer.stored.chain_head
    assert answer.merkle_root == answer.stored.merkle_root
    assert (answer.checkpoints.count, answer.checkpoints.last_sequence) == (3, 6)
    assert answer.checkpoints.matches
    assert answer.ledger.found
    assert answer.ledger.matches
    assert answer.ledger.chain_verified
    assert not answer.attestation.present


@pytest.mark.parametrize("file", [store.LOG, store.SESSION])
def test_a_file_of_a_session_means_the_session(session, file):
    assert verify(session / file).verdict == "verified"


def test_the_json_shape(session):
    fields = json.loads(msgspec.json.encode(verify(session)))
    assert list(fields) == [
        "schema",
        "verdict",
        "session_id",
        "path",
        "event_count",
        "chain_head",
        "merkle_root",
        "sealed",
        "rules",
        "stored",
        "checkpoints",
        "ledger",
        "attestation",
        "first_bad",
        "notes",
    ]
    log_of(session).write_bytes(b"\n" + log_of(session).read_bytes())
    bad = json.loads(msgspec.json.encode(verify(session)))["first_bad"]
    assert list(bad) == ["line", "offset", "sequence", "class", "expected", "got"]
    assert bad["class"] == "parse error"


@pytest.mark.parametrize("name", [name for name in LOGS if name != "rust_all_types"])
def test_an_upstream_session_is_verified_with_notes(name):
    answer = verify(VECTORS / name, upstream=True)
    assert (answer.verdict, answer.rules, answer.first_bad) == ("verified", "nono", None)
    assert answer.merkle_root == load(name, "integrity.json")["merkle_root"]
    assert any("upstream nono's rules" in note for note in answer.notes)
    assert any("no ledger line" in note for note in answer.notes)


def test_all_seven_payload_types_verify(tmp_path):
    integrity = load("rust_all_types", "integrity.json")
    directory = upstream_session(tmp_path, VECTORS / "rust_all_types" / store.LOG)
    change_session(directory, audit_integrity=integrity, audit_event_count=9)
    assert verify(directory, upstream=True).verdict == "verified"


@pytest.mark.parametrize("quick", [False, True])
def test_upstreams_weaker_rules_are_for_who_asks_for_them(quick):
    answer = verify(VECTORS / "n5", quick=quick)
    assert (answer.verdict, answer.exit_code) == ("unreadable", 2)
    assert any("--upstream" in note for note in answer.notes)


# -- upstream's negative vectors ------------------------------------------------------------------


@pytest.mark.parametrize("name", NEGATIVE)
def test_upstreams_verdicts_with_a_stored_summary(name, tmp_path):
    directory = upstream_session(tmp_path, VECTORS / "negative" / name / store.LOG)
    upstream = NEGATIVE[name]["stored_n5"]
    answer = verify(directory, upstream=True)
    assert answer.verdict == ("verified" if upstream["ok"] else "tampered")
    if not upstream["ok"]:
        failure = next(ours for theirs, ours in CLASSES.items() if theirs in upstream["error"])
        assert answer.first_bad.failure == failure


@pytest.mark.parametrize("name", NEGATIVE)
def test_without_a_summary_we_are_stricter_than_upstream(name):
    """Upstream takes any good prefix for verified and a torn tail for an error: we neither."""
    answer = verify(VECTORS / "negative" / name / store.LOG)
    if name == "torn_last_line":  # upstream: parse error of the whole log
        assert (answer.verdict, answer.event_count) == ("crashed", 4)
    elif name == "event_json_null":  # upstream: ok, although nothing that was hashed is there
        assert (answer.verdict, answer.first_bad.line) == ("tampered", 3)
    elif NEGATIVE[name]["no_stored"]["ok"]:
        assert (answer.verdict, answer.event_count) == ("crashed", 5)
        assert any("unsealed prefix" in note for note in answer.notes)
    else:
        assert answer.verdict == "tampered"


@pytest.mark.parametrize("name", ["blank_lines", "upper_hex", "unknown_envelope_field"])
def test_what_upstream_lets_pass_is_tampering_in_our_own_log(name, session):
    lines = log_of(session).read_bytes().splitlines(keepends=True)
    lines[1] = {
        "blank_lines": b"\n" + lines[1],
        "upper_hex": lines[1].replace(
            json.loads(lines[1])["leaf_hash"].encode(),
            json.loads(lines[1])["leaf_hash"].upper().encode(),
        ),
        "unknown_envelope_field": lines[1].replace(b'{"sequence"', b'{"x":1,"sequence"'),
    }[name]
    log_of(session).write_bytes(b"".join(lines))
    answer = verify(session)
    assert (answer.verdict, answer.first_bad.line) == ("tampered", 2)
    assert answer.first_bad.failure in ("record not canonical", "parse error")


# -- a single log, and missing files --------------------------------------------------------------


def test_a_log_file_by_itself_is_never_verified(session, tmp_path):
    alone = tmp_path / "alone.ndjson"
    alone.write_bytes(log_of(session).read_bytes())
    answer = verify(alone)
    assert (answer.verdict, answer.event_count, answer.session_id) == ("crashed", 7, None)


@pytest.mark.parametrize("missing", ["log", "directory", "session.json"])
@pytest.mark.parametrize("in_ledger", [False, True])
def test_what_is_not_there(root, missing, in_ledger):
    """Unreadable, unless the ledger says that it has to be there."""
    session = made.build(root, in_ledger=in_ledger)
    if missing == "log":
        log_of(session).unlink()
    elif missing == "directory":
        shutil.rmtree(session)
    else:
        (session / store.SESSION).write_bytes(b"{")
    answer = verify(session)
    known = ("missing", 1) if missing == "directory" else ("tampered", 1)
    assert (answer.verdict, answer.exit_code) == (known if in_ledger else ("unreadable", 2))
    assert answer.notes


# -- hostile JSON ---------------------------------------------------------------------------------

FIRST = made.encode_log(made.SMALL)[0][0]
HOSTILE = {
    "duplicate key": FIRST.replace(b'{"sequence":0', b'{"sequence":9,"sequence":0'),
    "duplicate key in the event": FIRST.replace(b'"event":{', b'"event":{"started":"x",'),
    "NaN": FIRST.replace(b'"sequence":0', b'"sequence":NaN'),
    "NaN in an unknown key": FIRST.replace(b"{", b'{"x":NaN,', 1),
    "infinity": FIRST.replace(b"{", b'{"x":-Infinity,', 1),
    "deep array": b"[" * 500_000 + b"\n",
    "deep unknown key": FIRST.replace(b"{", b'{"x":' + b"[" * 9999 + b"]" * 9999 + b",", 1),
    "deep event": FIRST.replace(b'"event":{', b'"event":{"x":' + b'{"y":' * 9999),
    "lone surrogate": FIRST.replace(b"{", b'{"x":"\\ud800",', 1),
    "lone surrogate in a key": FIRST.replace(b"{", b'{"\\udfff":1,', 1),
    "bool as sequence": FIRST.replace(b'"sequence":0', b'"sequence":false'),
    "float as sequence": FIRST.replace(b'"sequence":0', b'"sequence":0.0'),
    "huge sequence": FIRST.replace(b'"sequence":0', b'"sequence":' + b"9" * 30),
    "endless sequence": FIRST.replace(b'"sequence":0', b'"sequence":' + b"9" * 50_000),
    "negative sequence": FIRST.replace(b'"sequence":0', b'"sequence":-1'),
    "not UTF-8": FIRST.replace(b"agent", b"ag\xffnt"),
    "a byte order mark": b"\xef\xbb\xbf" + FIRST,
    "NUL": FIRST.replace(b"agent", b"ag\x00nt"),
    "an array": b"[1,2]\n",
    "null": b"null\n",
    "a number for a hash": FIRST.replace(b'"prev_chain":null', b'"prev_chain":1'),
    "a short hash": FIRST.replace(b'"leaf_hash":"', b'"leaf_hash":"x'),
    "spaces in a hash": FIRST.replace(b'"prev_chain":null', b'"prev_chain":"' + b" 0" * 32 + b'"'),
    "an event of no type": FIRST.replace(b'"event":{"type":"session_started",', b'"event":{'),
    "an event that is null": FIRST[: FIRST.rindex(b',"event":')] + b',"event":null}\n',
    "event_json as an object": FIRST.replace(b'"event_json":"', b'"event_json":{"a":"'),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("ours", [True, False])
def test_hostile_json_has_a_clear_verdict(kind, ours, root, tmp_path):
    line = HOSTILE[kind]
    assert line != FIRST
    upstream = upstream_session(tmp_path, VECTORS / "n5" / store.LOG)
    directory = made.build(root) if ours else upstream
    log_of(directory).write_bytes(line + b"".join(made.encode_log(made.SMALL)[0][1:]))
    answer = verify(directory, upstream=not ours)
    assert (answer.verdict, answer.first_bad.line) == ("tampered", 1)
    assert len(answer.first_bad.got) < 200
    assert len(answer.first_bad.expected) < 200
    msgspec.json.encode(answer)


@pytest.mark.parametrize(
    "event_json",
    [
        b'{"type":"session_ended","ended":"t","exit_code":0,"unknown":1}',
        b'{"type":"session_ended","exit_code":0,"ended":"t"}',
        b'{"type": "session_ended","ended":"t","exit_code":0}',
        b'{"type":"session_ended","ended":"\\u0074","exit_code":0}',
    ],
)
def test_a_well_chained_payload_that_is_not_canonical_is_refused(tmp_path, event_json):
    """The hashes fit, but what was hashed is not what `event` stands for."""
    alone = tmp_path / "alone.ndjson"
    alone.write_bytes(encode_record(0, None, event_json)[0])
    answer = verify(alone)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "event JSON mismatch")


def test_lines_are_split_on_newlines_only(root):
    target = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\rh"
    directory = made.build(
        root, payloads=[made.started(), made.network(target=target), made.ended()]
    )
    assert verify(directory).verdict == "verified"


def test_a_line_longer_than_the_limit_is_no_record(root, monkeypatch):
    monkeypatch.setattr("nono_trio.audit.read.records.MAX_LINE", 1000)
    directory = made.build(root)
    with log_of(directory).open("ab") as file:
        file.write(b"x" * 5000 + b"\n")
    assert verify(directory).verdict == "tampered"


def test_upstream_reads_hashes_in_either_case_but_nothing_else(tmp_path):
    for text in ("0x" + "0" * 62, "0" * 63, "0" * 65, " " * 64, "é" * 64):
        assert chains.hash_bytes(text) == b""
    assert chains.hash_bytes("AB" * 32) == chains.hash_bytes("ab" * 32) == b"\xab" * 32


# -- several, and large ---------------------------------------------------------------------------


def test_the_worst_verdict_decides():
    order = ["verified", "open", "crashed", "unreadable", "missing", "tampered"]
    codes = [0, 5, 6, 2, 1, 1]
    for count in range(1, len(order) + 1):
        assert worst(order[:count]) == codes[count - 1]
        assert worst(reversed(order[:count])) == codes[count - 1]
    assert worst([]) == 0
    assert worst(["undamaged", "verified"]) == 0


def test_memory_does_not_grow_with_the_log(root):
    payloads = [made.started(), *(made.network(n) for n in range(20_000)), made.ended()]
    directory = made.build(root, payloads=payloads, counts=range(0, 20_000, 1000))
    assert log_of(directory).stat().st_size > 10_000_000
    tracemalloc.start()
    try:
        assert verify(directory).verdict == "verified"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # session.json with its 4096 events is most of it; the log adds nothing
    assert peak < 12_000_000


def test_facts_that_the_policy_does_not_have_are_tampering(root):
    directory = made.unsealed(root)
    metadata = store.read_metadata(directory)
    metadata.nono_trio = NonoTrioFacts(version="0.1.0")
    store.write_session_json(directory, metadata)
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "session.json mismatch")


def test_nothing_hides_behind_a_record_that_is_as_long_as_a_reading(tmp_path, monkeypatch):
    log = (VECTORS / "n5" / store.LOG).read_bytes()
    longest = 4000
    *before, last = log.splitlines(keepends=True)
    assert max(map(len, before)) < longest
    padded = tmp_path / "log"
    padded.write_bytes(b"".join(before) + last[:-1].ljust(longest) + b"\n")
    monkeypatch.setattr("nono_trio.audit.read.records.MAX_LINE", longest)
    assert verify(upstream_session(tmp_path, padded), upstream=True).verdict == "tampered"
    monkeypatch.setattr("nono_trio.audit.read.records.MAX_LINE", longest + 1)
    assert verify(tmp_path / "upstream", upstream=True).verdict == "verified"
