"""`verify --since`: what came after a kept checkpoint is proved, and goes on from it."""

from __future__ import annotations

import json

import pytest
import sealed_session as made

from nono_trio.audit import store
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.session import verify
from nono_trio.audit.verify.since import read_since, verify_since
from nono_trio.core.log.events import encode_payload
from nono_trio.core.log.record import encode_record
from nono_trio.errors import UsageError

MIDDLE = [made.network(number, "deny", "evil.test") for number in range(20)]
PAYLOADS = [made.started(), *MIDDLE, made.ended()]
COUNTS = (4, 10, 15)


@pytest.fixture
def session(tmp_path):
    return made.build(tmp_path / "audit", payloads=PAYLOADS, counts=COUNTS)


@pytest.fixture
def kept(session, tmp_path):
    """The checkpoints as they were when the log had ten records."""
    marks = (session / store.CHECKPOINTS).read_bytes().splitlines(keepends=True)
    path = tmp_path / "kept.ndjson"
    path.write_bytes(b"".join(marks[:2]))
    return path


def judged(session, kept):
    return verify_since(session, read_since(kept, kept.stat().st_size))


def edit_log(session, place, old, new):
    log = session / store.LOG
    lines = log.read_bytes().splitlines(keepends=True)
    lines[place] = lines[place].replace(old, new)
    log.write_bytes(b"".join(lines))


def other_hash(mark, key):
    return mark.replace(json.loads(mark)[key].encode(), b"0" * 64)


def test_a_log_that_goes_on_is_consistent(session, kept):
    answer = judged(session, kept)
    assert (answer.verdict, answer.exit_code, answer.first_bad) == ("consistent", 0, None)
    assert answer.event_count == len(PAYLOADS) + 2
    assert answer.notes == [
        "since: records 10 to 23 were hashed, and go on from the checkpoint; the 10 before it were"
        " compared by checksums only, and no signature was checked"
    ]


def test_a_checkpoint_of_a_log_that_was_idle_is_one_of_several_at_its_place(tmp_path, kept):
    """An idle log gets a checkpoint a minute; a copy made meanwhile ends with any of them."""
    idle = made.build(tmp_path / "idle", payloads=PAYLOADS, counts=(4, 10, 10, 10, 15))
    marks = (idle / store.CHECKPOINTS).read_bytes().splitlines(keepends=True)
    for last in (1, 2, 3):
        kept.write_bytes(marks[last])
        assert judged(idle, kept).verdict == "consistent"
    kept.write_bytes(marks[1])
    marks[3] = marks[3].replace(b'"event_count":10', b'"event_count":11')
    (idle / store.CHECKPOINTS).write_bytes(b"".join(marks))
    answer = judged(idle, kept)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "another history")


def test_the_last_line_alone_is_enough(session, kept):
    kept.write_bytes(kept.read_bytes().splitlines()[-1])
    assert judged(session, kept).verdict == "consistent"


@pytest.mark.parametrize(
    ("place", "failure"), [(3, "segment checksum mismatch"), (12, "leaf hash mismatch")]
)
def test_a_changed_record_is_found_before_and_after(session, kept, place, failure):
    edit_log(session, place, b"evil.test", b"good.test")
    answer = judged(session, kept)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", failure)


@pytest.mark.parametrize("counts", [COUNTS, (4, 15)])
def test_another_history_is_named(tmp_path, kept, counts):
    forged = [made.started(), made.network(0, "allow", "good.test"), *MIDDLE[1:], made.ended()]
    other = made.build(tmp_path / "other", payloads=forged, counts=counts)
    answer = judged(other, kept)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", "another history")


def test_a_kept_line_put_into_another_history_is_found(tmp_path, session, kept):
    """The forger hashes all again, and keeps the line of the checkpoint as it was."""
    forged = [made.started(), made.network(0, "deny", "good.test"), *MIDDLE[1:], made.ended()]
    other = made.build(tmp_path / "other", payloads=forged, counts=COUNTS)
    marks = (other / store.CHECKPOINTS).read_bytes().splitlines(keepends=True)
    marks[:2] = kept.read_bytes().splitlines(keepends=True)
    (other / store.CHECKPOINTS).write_bytes(b"".join(marks))
    assert judged(other, kept).verdict == "tampered"


def test_a_rollback_is_found(tmp_path, kept):
    older = made.unsealed(tmp_path / "older", payloads=PAYLOADS[:6], counts=(4,))
    answer = judged(older, kept)
    assert (answer.verdict, answer.first_bad.failure) == (
        "tampered",
        "truncated below a checkpoint",
    )


def test_a_crashed_session_and_its_torn_tail(tmp_path):
    crashed = made.unsealed(tmp_path / "audit", payloads=PAYLOADS[:-1], counts=COUNTS)
    with (crashed / store.LOG).open("ab") as file:
        file.write(b'{"sequence":')
    answer = judged(crashed, crashed / store.CHECKPOINTS)
    assert (answer.verdict, answer.first_bad) == ("crashed", None)
    assert answer.notes[-1] == "the last 12 bytes are no whole record: a torn tail"


@pytest.mark.parametrize("text", [b"", b"no checkpoint\n", b"{}\n"])
def test_a_file_without_checkpoints_is_refused(tmp_path, text):
    path = tmp_path / "kept"
    path.write_bytes(text)
    with pytest.raises(UsageError, match="expected a file of checkpoints"):
        read_since(path, len(text))


def test_the_command(run, session, kept):
    code, out, _ = run("audit", "verify", session.name, "--since", kept)
    assert (code, out.split()[0]) == (0, "consistent")
    edit_log(session, 12, b"evil.test", b"good.test")
    code, out, _ = run("audit", "verify", session.name, "--since", kept, "--json")
    assert (code, json.loads(out)["first_bad"]["class"]) == (1, "leaf hash mismatch")
    assert run("audit", "verify", "--all", "--since", kept)[0] == 2
    assert run("audit", "verify", session.name, "--since", kept.parent / "none")[0] == 2


def crashed_with(tmp_path, data):
    crashed = made.unsealed(tmp_path / "audit", payloads=PAYLOADS[:-1], counts=COUNTS)
    with (crashed / store.LOG).open("ab") as file:
        file.write(data)
    return crashed


@pytest.mark.parametrize("data", [bytes(500) + b'":1}\n', bytes(500) + b'":1}\nxx\n', bytes(500)])
def test_a_hole_of_zeros_after_the_last_checkpoint_is_a_crash(tmp_path, data):
    """A loss of power leaves it: as `audit verify` says, it is no tampering."""
    crashed = crashed_with(tmp_path, data)
    answer = judged(crashed, crashed / store.CHECKPOINTS)
    assert (answer.verdict, answer.first_bad) == ("crashed", None)
    assert answer.notes[-1] == f"the last {len(data)} bytes are no whole record: a torn tail"


def test_a_hole_before_a_checkpoint_or_in_a_seal_is_none(tmp_path, session, kept):
    edit_log(session, 12, b"evil.test", bytes(9))
    assert judged(session, kept).verdict == "tampered"
    crashed = made.unsealed(tmp_path / "other", payloads=PAYLOADS[:-1], counts=COUNTS)
    edit_log(crashed, 12, b"evil.test", bytes(9))
    assert judged(crashed, kept).verdict == "tampered"


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (lambda marks: b"".join(marks[:-1]), "final checkpoint missing"),
        (lambda marks: b"".join(marks) + b"xx", "checkpoints mismatch"),
        (lambda marks: b"".join(marks) + b"xx\n", "checkpoints mismatch"),
        (
            lambda marks: b"".join(marks).replace(b'"final":true', b'"final":false'),
            "final checkpoint missing",
        ),
        (
            lambda marks: b"".join(marks[:-1]) + other_hash(marks[-1], "merkle_root"),
            "Merkle root mismatch",
        ),
        (
            lambda marks: b"".join(marks[:-1]) + other_hash(marks[-1], "flows_sha256"),
            "flows mismatch",
        ),
    ],
)
def test_a_seal_without_its_end_is_not_consistent(session, kept, change, failure):
    marks = (session / store.CHECKPOINTS).read_bytes().splitlines(keepends=True)
    (session / store.CHECKPOINTS).write_bytes(change(marks))
    answer = judged(session, kept)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", failure)


def test_a_session_that_is_not_sealed_is_not_said_to_have_no_signature(run, tmp_path):
    """No signature is checked: the note says that, and nothing says that there is none."""
    crashed = crashed_with(tmp_path, b"")
    code, out, _ = run("audit", "verify", crashed.name, "--since", crashed / store.CHECKPOINTS)
    assert (code, out.split()[0]) == (6, "crashed")
    assert "signature    none" not in out
    assert "no signature was checked" in out


@pytest.mark.parametrize("forge", ["no summary record", "another summary"])
def test_an_end_without_its_summary_is_no_crash(tmp_path, forge):
    """As `verify` says, and `list`."""
    root = tmp_path / "ended"
    crashed = made.unsealed(root, payloads=made.SMALL)
    (tmp_path / "kept").write_bytes((crashed / store.CHECKPOINTS).read_bytes())
    assert judged(crashed, tmp_path / "kept").verdict == "crashed"
    assert bound_facts.look(crashed).fault is None
    if forge == "another summary":
        (crashed / store.SUMMARY).write_bytes(b"{}")
    else:
        log = crashed / store.LOG
        *before, _, _ = log.read_bytes().splitlines(keepends=True)
        head = bytes.fromhex(json.loads(before[-1])["chain_hash"])
        end = encode_record(len(before), head, encode_payload(made.ended()))[0]
        log.write_bytes(b"".join(before) + end)
    expected = verify(crashed)
    assert expected.verdict == "tampered"
    answer = judged(crashed, tmp_path / "kept")
    assert (answer.verdict, answer.first_bad) == ("tampered", expected.first_bad)
    assert bound_facts.look(crashed).fault == expected.first_bad


def test_a_seal_without_its_session_json_is_no_crash(session, kept):
    """Without it nothing is said to be sealed; the ledger knows better."""
    (session / store.SESSION).unlink()
    named = "sealed session opened again"
    assert verify(session).first_bad.failure == named
    assert bound_facts.look(session).fault.failure == named
    assert verify(session, quick=True).first_bad.failure == named
    assert judged(session, kept).first_bad.failure == named
