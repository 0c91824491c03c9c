"""A sealed session with anything changed: every byte, every line, every cut."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import sealed_session as made
from sealed_session import alive_facts, change_session, log_of, overwrite
from vectors import VECTORS

from nono_trio.audit import ledger, store
from nono_trio.audit.verify.quick import QuickCheck
from nono_trio.audit.verify.session import verify


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def session(root):
    return made.build(root, flows=[made.flow(2)])


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
    payloads = made.payloads_of(session)
    payloads[4] = made.network(9, "allow")
    log_of(session).write_bytes(b"".join(made.encode_log(payloads)[0]))
    answer = verify(session)
    assert answer.verdict == "tampered"
    assert answer.first_bad.line == 5


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
        ({"tracked_paths": []}, "session.json mismatch"),
        ({"snapshot_count": 1}, "session.json mismatch"),
        ({"session_id": "another"}, "session.json mismatch"),
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
    events[2]["decision"] = "allow"
    change_session(session, network_events=events)
    answer = verify(session)
    assert (answer.first_bad.failure, answer.first_bad.line) == ("network_events mismatch", 5)


def test_lost_events_can_not_be_played_down(root):
    gap = made.network(3, "deny", "nono-trio:audit", port=None, reason="3 events lost: queue full")
    directory = made.build(root, payloads=[*made.SMALL[:-1], gap, made.SMALL[-1]])
    answer = verify(directory)
    assert answer.verdict == "verified"
    assert "3 events lost while recording" in answer.notes
    facts = json.loads((directory / store.SESSION).read_bytes())["nono_trio"]
    change_session(directory, nono_trio=facts | {"lost_total": 0})
    assert verify(directory).first_bad.failure == "session.json mismatch"


def test_lost_flow_lines_are_said_and_can_not_be_denied(root):
    directory = made.build(root, payloads=made.SMALL, lost_flows=7)
    answer = verify(directory)
    assert answer.verdict == "verified"
    assert any(note.startswith("7 flow lines lost") for note in answer.notes)
    facts = json.loads((directory / store.SESSION).read_bytes())["nono_trio"]
    change_session(directory, nono_trio=facts | {"lost_flows": 0})
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
    lines, leaves, heads = made.encode_log(made.payloads_of(endless)[:-1])
    log_of(endless).write_bytes(b"".join(lines))
    (endless / store.CHECKPOINTS).write_bytes(
        b"".join(made.checkpoint_lines(lines, leaves, heads, [6], final=True))
    )
    change_session(
        endless,
        audit_event_count=6,
        audit_integrity={
            "hash_algorithm": "sha256",
            "event_count": 6,
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


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_ledger_line_condemns_its_session_only(root, place):
    ids = ["first", "second", "third"]
    directories = [made.build(root, one) for one in ids]
    path = root / ledger.LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (lines[place].replace(b'"20', b'"19'), b"{}\n", b"\0" * 40 + b"\n"):
        path.write_bytes(b"".join([*lines[:place], damaged, *lines[place + 1 :]]))
        answers = [verify(directory) for directory in directories]
        expected = ["tampered" if one == place else "verified" for one in range(3)]
        assert [answer.verdict for answer in answers] == expected
        assert all(answer.ledger.chain_verified is False for answer in answers)
        note = f"line {place + 1} of the ledger is damaged"
        assert all(note in str(answer.notes) for answer in answers)


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
    """The ledger's line comes first, session.json last: one that is sealed has its line."""
    directory = made.running(root, payloads=made.SMALL)
    assert verify(directory).verdict == "open"
    made.build(root, "other")
    too_early = made.build(root, "sealed", in_ledger=False, **alive_facts())
    assert verify(too_early).first_bad.failure == "ledger line missing"


def test_an_old_report_on_the_ledger_is_made_anew(root):
    made.build(root, "first")
    report = ledger.verify(root)
    assert verify(made.build(root, "second"), ledger=report).verdict == "verified"


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


def test_quick_ends_on_a_log_that_is_cut_after_its_size_was_taken(session):
    log, checkpoints = log_of(session), session / store.CHECKPOINTS
    check = QuickCheck(log, log.stat().st_size)
    os.truncate(log, log.stat().st_size - 1)
    check.run(checkpoints, checkpoints.stat().st_size)
    assert check.first_bad.failure == "truncated below a checkpoint"


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
    answer = verify(VECTORS / "n5", quick=True, upstream=True)
    assert answer.verdict == "verified"
    assert any("every record was checked" in note for note in answer.notes)
