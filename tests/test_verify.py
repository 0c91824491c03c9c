from __future__ import annotations

import json
import os
import shutil
import threading
import tracemalloc

import msgspec
import pytest
import sealed_session as made
from vectors import LOGS, VECTORS, load

from nono_trio.audit import chain as chains
from nono_trio.audit import ledger, store
from nono_trio.audit.verdict import worst
from nono_trio.audit.verify import verify
from nono_trio.core.metadata import NonoTrioFacts, decode_checkpoint, encode_checkpoint

NEGATIVE = load("negative", "verdicts.json")
# What upstream's verifier says of the event, and what we call it.
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


def log_of(directory):
    return directory / store.LOG


def alive_facts():
    return {
        "supervisor_pid": os.getpid(),
        "supervisor_start_ticks": store.process_start_ticks(os.getpid()),
        "boot_id": store.boot_id(),
    }


def overwrite(path, data):
    """Like write_bytes, but without truncating to nothing first: that costs a flush each time."""
    with path.open("r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))


def change_session(directory, **changes):
    fields = json.loads((directory / store.SESSION).read_bytes())
    fields.update(changes)
    (directory / store.SESSION).write_text(json.dumps(fields))


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
    assert (answer.event_count, answer.sealed, answer.notes) == (5, True, [])
    assert answer.chain_head == answer.stored.chain_head
    assert answer.merkle_root == answer.stored.merkle_root
    assert (answer.checkpoints.count, answer.checkpoints.last_sequence) == (3, 4)
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
    answer = verify(VECTORS / name)
    assert (answer.verdict, answer.first_bad) == ("verified", None)
    assert answer.merkle_root == load(name, "integrity.json")["merkle_root"]
    assert any("upstream nono's rules" in note for note in answer.notes)
    assert any("no ledger line" in note for note in answer.notes)


def test_all_seven_payload_types_verify(tmp_path):
    integrity = load("rust_all_types", "integrity.json")
    directory = upstream_session(tmp_path, VECTORS / "rust_all_types" / store.LOG)
    change_session(directory, audit_integrity=integrity, audit_event_count=9)
    assert verify(directory).verdict == "verified"


# -- upstream's negative vectors ------------------------------------------------------------------


@pytest.mark.parametrize("name", NEGATIVE)
def test_upstreams_verdicts_with_a_stored_summary(name, tmp_path):
    directory = upstream_session(tmp_path, VECTORS / "negative" / name / store.LOG)
    upstream = NEGATIVE[name]["stored_n5"]
    answer = verify(directory)
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


# -- small worlds: every byte, every line, every cut ----------------------------------------------


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80])
def test_any_flipped_byte_of_a_sealed_log_is_tampering(session, pattern):
    whole = log_of(session).read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= pattern
        overwrite(log_of(session), changed)
        answer = verify(session)
        assert answer.verdict == "tampered", position
        assert answer.first_bad.line == whole.count(b"\n", 0, position) + 1


@pytest.mark.parametrize("byte", [b"\n", b" ", b"\x00"])
def test_any_byte_put_into_a_sealed_log_is_tampering(session, byte):
    whole = log_of(session).read_bytes()
    for position in range(len(whole) + 1):
        overwrite(log_of(session), whole[:position] + byte + whole[position:])
        assert verify(session).verdict == "tampered", position


def test_a_sealed_log_cut_anywhere_is_truncated(session):
    whole = log_of(session).read_bytes()
    for size in range(len(whole)):
        overwrite(log_of(session), whole[:size])
        answer = verify(session)
        assert (answer.verdict, answer.first_bad.failure) == (
            "tampered",
            "truncated below a checkpoint",
        ), size


def test_dropped_doubled_and_swapped_lines_are_tampering(session):
    lines = log_of(session).read_bytes().splitlines(keepends=True)
    for i in range(len(lines)):
        dropped = lines[:i] + lines[i + 1 :]
        doubled = lines[: i + 1] + lines[i:]
        for changed in (dropped, doubled):
            log_of(session).write_bytes(b"".join(changed))
            assert verify(session).verdict == "tampered"
        for j in range(i + 1, len(lines)):
            swapped = lines.copy()
            swapped[i], swapped[j] = swapped[j], swapped[i]
            log_of(session).write_bytes(b"".join(swapped))
            answer = verify(session)
            assert (answer.verdict, answer.first_bad.line) == ("tampered", i + 1)


@pytest.mark.parametrize("pattern", [0x01, 0x80])
def test_any_flipped_byte_of_the_checkpoints_is_not_verified(session, pattern):
    path = session / store.CHECKPOINTS
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= pattern
        overwrite(path, changed)
        if verify(session).verdict == "verified":  # only the time is not bound to anything
            assert _is_in_a_time(whole, position)


def _is_in_a_time(whole, position):
    start = whole.rindex(b'"time":"', 0, position + 1)
    return whole.index(b'","event_count"', start) > position


@pytest.mark.parametrize("pattern", [0x01, 0x80])
def test_any_flipped_byte_of_flows_or_ledger_is_not_verified(session, root, pattern):
    for path in (session / store.FLOWS, root / ledger.LEDGER):
        whole = path.read_bytes()
        for position in range(len(whole)):
            changed = bytearray(whole)
            changed[position] ^= pattern
            overwrite(path, changed)
            assert verify(session).verdict == "tampered", (path, position)
        path.write_bytes(whole)


def test_a_rewritten_and_chained_anew_log_is_tampering(session):
    """Without a key an attacker can chain anew; the checkpoints and the ledger still object."""
    forged, _, _ = made.encode_log([*made.SMALL[:3], made.network(9, "allow"), made.SMALL[4]])
    log_of(session).write_bytes(b"".join(forged))
    answer = verify(session)
    assert answer.verdict == "tampered"
    assert answer.first_bad.line == 4


# -- a seal that does not add up ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"audit_integrity": None}, "seal missing"),
        ({"audit_event_count": 4}, "count mismatch"),
        ({"started": "2026-07-02T12:03:05Z"}, "session.json mismatch"),
        ({"command": ["agent"]}, "session.json mismatch"),
        ({"ended": None}, "session.json mismatch"),
        ({"exit_code": 1}, "session.json mismatch"),
        ({"network_events": []}, "network_events mismatch"),
        ({"tracked_paths": []}, "session digest mismatch"),
        ({"snapshot_count": 1}, "session digest mismatch"),
        ({"session_id": "another"}, "ledger line missing"),
    ],
)
def test_a_changed_session_json_is_tampering(session, changes, failure):
    change_session(session, **changes)
    answer = verify(session)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", failure)


@pytest.mark.parametrize("field", ["event_count", "chain_head", "merkle_root"])
def test_a_changed_summary_is_tampering(session, field):
    integrity = json.loads((session / store.SESSION).read_bytes())["audit_integrity"]
    change_session(
        session, audit_integrity=integrity | {field: 9 if "count" in field else "0" * 64}
    )
    answer = verify(session)
    assert answer.verdict == "tampered"
    assert answer.first_bad.failure.lower().startswith(field.replace("_", " ").split()[-1][:4]) or (
        "mismatch" in answer.first_bad.failure
    )


def test_a_repeated_network_event_that_differs_is_tampering(session):
    events = json.loads((session / store.SESSION).read_bytes())["network_events"]
    events[1]["decision"] = "allow"
    change_session(session, network_events=events)
    answer = verify(session)
    assert (answer.first_bad.failure, answer.first_bad.line) == ("network_events mismatch", 4)


def test_lost_events_can_not_be_played_down(root):
    directory = made.build(root, lost_total=3)
    answer = verify(directory)
    assert answer.verdict == "verified"
    assert "3 events were lost while recording" in answer.notes
    facts = json.loads((directory / store.SESSION).read_bytes())["nono_trio"]
    change_session(directory, nono_trio=facts | {"lost_total": 0})
    assert verify(directory).first_bad.failure == "session.json mismatch"


def test_a_seal_without_its_final_checkpoint_is_tampering(session):
    path = session / store.CHECKPOINTS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert verify(session).first_bad.failure == "final checkpoint missing"
    path.write_bytes(b"".join(lines)[:-1])  # torn, but a sealed session can't be
    assert verify(session).first_bad.failure == "final checkpoint missing"
    path.write_bytes(b"".join([*lines, lines[-1]]))
    assert verify(session).first_bad.failure == "checkpoint mismatch"
    path.unlink()
    assert verify(session).first_bad.failure == "final checkpoint missing"


def test_missing_flows_are_tampering_and_empty_ones_may_be_missing(session, root):
    (session / store.FLOWS).unlink()
    assert verify(session).first_bad.failure == "flows mismatch"
    quiet = made.build(root, "quiet")
    (quiet / store.FLOWS).unlink()
    assert verify(quiet).verdict == "verified"


def test_a_record_after_session_ended_is_tampering(root):
    directory = made.build(root, payloads=[*made.SMALL, made.network(9), made.ended()])
    assert verify(directory).first_bad.failure == "record after session_ended"


def test_a_log_that_begins_or_ends_with_something_else_is_tampering(root):
    headless = made.unsealed(root, "a", payloads=made.SMALL[1:])
    assert verify(headless).first_bad.failure == "first record mismatch"
    endless = made.build(root, "b")
    lines, leaves, heads = made.encode_log(made.SMALL[:-1])
    log_of(endless).write_bytes(b"".join(lines))
    (endless / store.CHECKPOINTS).write_bytes(
        b"".join(made.checkpoint_lines(lines, leaves, heads, [4], final=True))
    )
    change_session(
        endless,
        audit_event_count=4,
        audit_integrity={
            "hash_algorithm": "sha256",
            "event_count": 4,
            "chain_head": heads[-1].hex(),
            "merkle_root": made.merkle_root(leaves).hex(),
        },
    )
    assert verify(endless).first_bad.failure == "last record mismatch"


def test_another_sessions_files_under_this_name_are_tampering(session, root):
    other = made.build(root, "other", payloads=[*made.SMALL[:2], made.ended()])
    shutil.rmtree(session)
    shutil.copytree(other, session)
    assert verify(session).first_bad.failure == "session id mismatch"


# -- the ledger -----------------------------------------------------------------------------------


def test_a_session_without_its_ledger_line_is_tampering(root):
    assert verify(made.build(root, "a", in_ledger=True)).verdict == "verified"
    answer = verify(made.build(root, "b", in_ledger=False))
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "ledger line missing")


def test_a_broken_ledger_chain_is_tampering_even_after_our_line(session, root):
    made.build(root, "later")
    path = root / ledger.LEDGER
    path.write_bytes(path.read_bytes().replace(b'"session_id":"later"', b'"session_id":"Later"'))
    answer = verify(session)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "ledger chain hash mismatch")
    assert answer.ledger.chain_verified is False


def test_a_torn_ledger_tail_is_no_tampering(session, root):
    with (root / ledger.LEDGER).open("ab") as file:
        file.write(b'{"sequence":1,')
    assert verify(session).verdict == "verified"


def test_a_copy_without_its_ledger_is_unreadable_not_tampered(session, tmp_path):
    shutil.copytree(session, tmp_path / "copies" / session.name)
    answer = verify(tmp_path / "copies" / session.name)
    assert (answer.verdict, answer.exit_code, answer.first_bad) == ("unreadable", 2, None)
    assert any("needs its ledger" in note for note in answer.notes)


def test_a_session_that_is_being_sealed_is_open(root):
    directory = made.build(root, in_ledger=False, **alive_facts())
    assert verify(directory).verdict == "open"


def test_an_old_report_on_the_ledger_is_made_anew(root):
    made.build(root, "first")
    report = ledger.verify(root)
    assert verify(made.build(root, "second"), ledger=report).verdict == "verified"


# -- unsealed: crash or hand ----------------------------------------------------------------------


def test_a_crashed_session_is_good_up_to_its_last_record(root):
    answer = verify(made.unsealed(root))
    assert (answer.verdict, answer.exit_code, answer.event_count) == ("crashed", 6, 4)
    assert any("good up to sequence 3" in note for note in answer.notes)
    assert not answer.sealed


def test_a_running_session_is_open(root):
    answer = verify(made.unsealed(root, **alive_facts()))
    assert (answer.verdict, answer.exit_code) == ("open", 5)


def test_a_session_from_an_earlier_boot_is_crashed(root):
    facts = alive_facts() | {"boot_id": "an-earlier-boot"}
    assert verify(made.unsealed(root, **facts)).verdict == "crashed"


@pytest.mark.parametrize("alive", [False, True])
def test_an_unsealed_log_cut_at_every_byte(root, alive):
    """Below a checkpoint's offset, durable bytes are gone; above it, it is a crash."""
    directory = made.unsealed(root, **(alive_facts() if alive else {}))
    whole = log_of(directory).read_bytes()
    covered = sum(map(len, whole.splitlines(keepends=True)[:2]))
    for size in range(len(whole) + 1):
        overwrite(log_of(directory), whole[:size])
        answer = verify(directory)
        if size < covered:
            assert answer.verdict == "tampered"
            assert answer.first_bad.failure == "truncated below a checkpoint"
        else:
            assert answer.verdict == ("open" if alive else "crashed")
            assert answer.event_count == whole.count(b"\n", 0, size)
            torn = not whole[:size].endswith(b"\n")
            assert any("torn tail" in note for note in answer.notes) == (torn and not alive)


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80])
def test_flipped_bytes_of_an_unsealed_log(root, pattern):
    """Only the last line, and only if it is no record any more, can be a crash.

    A changed newline before it makes one last line of two.
    """
    directory = made.unsealed(root)
    whole = log_of(directory).read_bytes()
    last_line = whole.rindex(b"\n", 0, -1)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= pattern
        overwrite(log_of(directory), changed)
        answer = verify(directory)
        if position < last_line:
            assert answer.verdict == "tampered", position
        else:
            assert answer.verdict in ("tampered", "crashed")
            assert answer.event_count == (2 if position == last_line else 3)
            assert answer.verdict == "crashed" or answer.first_bad.failure != "parse error"


@pytest.mark.parametrize("tail", [b"\x00" * 4096, b"\xff", b"{", b"garbage\n"])
def test_what_a_crash_may_leave_behind_the_last_record(root, tail):
    directory = made.unsealed(root)
    with log_of(directory).open("ab") as file:
        file.write(tail)
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 4)
    assert f"the last {len(tail)} bytes are no whole record: a torn tail" in answer.notes


def test_a_bad_line_followed_by_a_line_is_tampering(root):
    directory = made.unsealed(root, counts=())
    lines = log_of(directory).read_bytes().splitlines(keepends=True)
    log_of(directory).write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[2:]]))
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.line) == ("tampered", 3)


def test_a_torn_checkpoint_line_is_a_crash(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    whole = path.read_bytes()
    for size in range(len(whole)):
        overwrite(path, whole[:size])
        assert verify(directory).verdict == "crashed", size


def test_a_bad_checkpoint_line_before_a_good_one_is_tampering(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:40] + b"\n" + second)
    assert verify(directory).first_bad.failure == "checkpoint parse error"


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"event_count": 3}, "count mismatch"),
        ({"chain_head": "0" * 64}, "chain head mismatch"),
        ({"merkle_root": "0" * 64}, "Merkle root mismatch"),
        ({"segment_xxh3": "0" * 16}, "segment checksum mismatch"),
        ({"offset": 5}, "checkpoint mismatch"),
        ({"offset": -1}, "checkpoint mismatch"),
        ({"offset": 10**9}, "truncated below a checkpoint"),
        ({"offset": 2**70}, "truncated below a checkpoint"),
        ({"offset": 1.5}, "checkpoint parse error"),
        ({"v": 2}, "checkpoint parse error"),
    ],
)
def test_a_checkpoint_that_says_something_else(root, changes, failure):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    fields = json.loads(first) | changes
    path.write_bytes(json.dumps(fields, separators=(",", ":")).encode() + b"\n" + second)
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", failure)


def test_fewer_lost_events_than_before_is_tampering(root):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    more = msgspec.structs.replace(decode_checkpoint(first), lost_total=2)
    path.write_bytes(encode_checkpoint(more) + second)
    assert verify(directory).first_bad.failure == "checkpoint mismatch"


def test_idle_checkpoints_and_one_before_the_first_record_are_fine(root):
    assert verify(made.build(root, counts=(0, 2, 2, 2, 4, 5))).verdict == "verified"


def test_a_directory_without_session_json_is_an_unsealed_prefix(root):
    directory = made.unsealed(root)
    (directory / store.SESSION).unlink()
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 4)
    assert answer.session_id == directory.name


def test_an_empty_log_of_a_crashed_session(root):
    directory = made.unsealed(root, counts=())
    log_of(directory).write_bytes(b"")
    answer = verify(directory)
    assert (answer.verdict, answer.event_count) == ("crashed", 0)
    assert any("no record in it" in note for note in answer.notes)


def test_a_log_is_judged_while_it_is_written(root):
    """Whatever instant the verifier comes at, a running session is never called tampered."""
    payloads = [made.started(), *(made.network(n) for n in range(400)), made.ended()]
    lines, leaves, heads = made.encode_log(payloads)
    counts = range(1, len(lines), 3)
    marks = made.checkpoint_lines(lines, leaves, heads, counts, final=False)
    directory = made.unsealed(root, payloads=payloads[:1], counts=(), **alive_facts())
    checkpoints = directory / store.CHECKPOINTS
    log_of(directory).write_bytes(b"")

    def write():
        with log_of(directory).open("ab", 0) as log, checkpoints.open("ab", 0) as marked:
            for before, count, mark in zip([0, *counts], counts, marks, strict=False):
                data = b"".join(lines[before:count])
                log.write(data[:100])  # a short write, continued
                log.write(data[100:])
                marked.write(mark[:50])
                marked.write(mark[50:])

    writer = threading.Thread(target=write)
    writer.start()
    verdicts, seen = set(), set()
    while writer.is_alive() or not verdicts:
        answer = verify(directory)
        verdicts.add(answer.verdict)
        seen.add(answer.event_count)
        assert answer.first_bad is None
    writer.join()
    assert verdicts == {"open"}
    assert verify(directory).event_count == counts[-1]


# -- a log by itself, and what is not there -------------------------------------------------------


def test_a_log_file_by_itself_is_never_verified(session, tmp_path):
    alone = tmp_path / "alone.ndjson"
    alone.write_bytes(log_of(session).read_bytes())
    answer = verify(alone)
    assert (answer.verdict, answer.event_count, answer.session_id) == ("crashed", 5, None)


@pytest.mark.parametrize("missing", ["log", "directory", "session.json"])
def test_what_is_not_there_is_unreadable(session, missing):
    if missing == "log":
        log_of(session).unlink()
    elif missing == "directory":
        shutil.rmtree(session)
    else:
        (session / store.SESSION).write_bytes(b"{")
    answer = verify(session)
    assert (answer.verdict, answer.exit_code) == ("unreadable", 2)
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
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad.line) == ("tampered", 1)
    assert len(answer.first_bad.got) < 200
    assert len(answer.first_bad.expected) < 200
    msgspec.json.encode(answer)


def test_lines_are_split_on_newlines_only(root):
    target = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\rh"
    directory = made.build(
        root, payloads=[made.started(), made.network(target=target), made.ended()]
    )
    assert verify(directory).verdict == "verified"


def test_a_line_longer_than_the_limit_is_no_record(root, monkeypatch):
    monkeypatch.setattr("nono_trio.audit.read.MAX_LINE", 1000)
    directory = made.build(root)
    with log_of(directory).open("ab") as file:
        file.write(b"x" * 5000 + b"\n")
    assert verify(directory).verdict == "tampered"


def test_upstream_reads_hashes_in_either_case_but_nothing_else(tmp_path):
    for text in ("0x" + "0" * 62, "0" * 63, "0" * 65, " " * 64, "é" * 64):
        assert chains._hash_bytes(text) == b""
    assert chains._hash_bytes("AB" * 32) == chains._hash_bytes("ab" * 32) == b"\xab" * 32


# -- quick ----------------------------------------------------------------------------------------


def test_quick_never_says_verified(session):
    answer = verify(session, quick=True)
    assert (answer.verdict, answer.exit_code) == ("undamaged", 0)
    assert any("nothing is proved" in note for note in answer.notes)


@pytest.mark.parametrize("pattern", [0x01, 0x80])
def test_quick_finds_any_accident(session, pattern):
    whole = log_of(session).read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= pattern
        overwrite(log_of(session), changed)
        assert verify(session, quick=True).verdict == "tampered"
    for size in range(len(whole)):
        overwrite(log_of(session), whole[:size])
        assert verify(session, quick=True).verdict == "tampered"
    log_of(session).write_bytes(whole + b"x")
    assert verify(session, quick=True).first_bad.failure == "bytes after the seal"


@pytest.mark.parametrize("changes", [{"chain_head": "0" * 64}, {"event_count": 3}, {"offset": 1}])
def test_quick_compares_the_last_record_with_the_last_checkpoint(root, changes):
    directory = made.unsealed(root, counts=(2, 4))
    path = directory / store.CHECKPOINTS
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        first + json.dumps(json.loads(second) | changes, separators=(",", ":")).encode()
    )
    path.write_bytes(path.read_bytes() + b"\n")
    assert verify(directory, quick=True).verdict == "tampered"


def test_quick_says_what_it_did_not_look_at(root):
    answer = verify(made.unsealed(root, counts=(2,)), quick=True)
    assert (answer.verdict, answer.event_count) == ("crashed", 2)
    assert any("after the last checkpoint were not looked at" in note for note in answer.notes)


def test_quick_without_checkpoints_checks_everything():
    answer = verify(VECTORS / "n5", quick=True)
    assert answer.verdict == "verified"
    assert any("every record was checked" in note for note in answer.notes)


# -- several, and large ---------------------------------------------------------------------------


def test_the_worst_verdict_decides():
    order = ["verified", "open", "crashed", "unreadable", "tampered"]
    codes = [0, 5, 6, 2, 1]
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


def test_facts_without_a_status_are_judged_by_the_seal(root):
    directory = made.unsealed(root)
    metadata = store.read_metadata(directory)
    metadata.nono_trio = NonoTrioFacts(version="0.1.0")
    store.write_session_json(directory, metadata)
    assert verify(directory).verdict == "crashed"
